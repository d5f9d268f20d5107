-- Teachable tokens: the teacher disagrees, and its mass lies where the student can follow.
--
-- importance = f c; f: forward KL, c: teacher mass on the student's top 16 ids, each brought to
-- [0, 1] between its 5th and 95th percentile over the round. The best token of each response comes
-- before all others, so that `scope = "round"` (the paper's) leaves no response without one.
-- group: disagreement
-- param low = 0.05  lower percentile
-- param high = 0.95  upper percentile
-- round f_low = round_quantile(forward_kl, getvariable('low'))
-- round f_high = round_quantile(forward_kl, getvariable('high'))
-- round c_low = round_quantile(teacher_mass_top, getvariable('low'))
-- round c_high = round_quantile(teacher_mass_top, getvariable('high'))
-- Source: TA-OPD, arXiv 2605.26844
WITH taught AS (
    SELECT
        *,
        unit(forward_kl, getvariable('f_low'), getvariable('f_high'))
            * unit(teacher_mass_top, getvariable('c_low'), getvariable('c_high')) AS teachability
    FROM tokens),
best AS (SELECT rollout, max(teachability) AS most FROM taught GROUP BY rollout)
SELECT taught.*, teachability + (teachability = most)::INT AS importance
FROM taught JOIN best USING (rollout)
