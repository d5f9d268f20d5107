"""What this card reaches on this day, for everything else to be held against."""

from collections.abc import Iterator

import torch

from .measure import Row, Setting, row, timed


def rows(setting: Setting) -> Iterator[Row]:
    """Yield large products in bfloat16 and TF32, and a copy."""
    size, device = setting.pick(8192, 256), setting.device
    whole = [torch.randn(size, size, device=device) for _ in range(2)]
    halves = [m.bfloat16() for m in whole]
    source = torch.empty(setting.pick(1 << 30, 1 << 20), device=device, dtype=torch.float32)
    source.normal_()
    target = torch.empty_like(source)
    torch.set_float32_matmul_precision("high")  # TF32; a CPU does as it likes
    found = timed(
        {
            "bfloat16": lambda: halves[0] @ halves[1],
            "TF32": lambda: whole[0] @ whole[1],
            "copy": lambda: target.copy_(source),
        },
        setting,
    )
    for kind, sheet, before in (("bfloat16", 989, "750 to 790"), ("TF32", 495, "385 to 412")):
        yield row(
            f"product in {kind}",
            found[kind].rate(2 * size**3 / 1e12),
            f"an H100's data sheet, {sheet}",
            sheet,
            at=f"{size:,} x {size:,} x {size:,}",
            unit="TFLOP/s",
            before=f"{before} TFLOP/s",
        )
    yield row(
        "copy, bytes read and written",
        found["copy"].rate(2 * source.nbytes / 1e12),
        "an H100's data sheet, 3.35",
        3.35,
        at=f"{source.nbytes / 1e9:.2g} GB",
        unit="TB/s",
        before="3.0 TB/s",
    )
