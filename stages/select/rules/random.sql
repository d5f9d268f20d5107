-- Tokens at random: the control of every other rule at the same budget.
--
-- All chances are equal; the draw is without replacement.
-- group: control
-- draw: sample
SELECT *, 1 AS importance
FROM tokens
