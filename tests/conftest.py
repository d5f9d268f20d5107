"""What holds for all tests."""

import signal

# A shell starts a command in the background with interrupts ignored, and so would all its children;
# some tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
