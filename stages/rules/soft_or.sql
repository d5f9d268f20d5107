-- Soft-OR: tokens where the student is uncertain or disagrees with the teacher.
--
-- importance = h + d - h d = 1 - (1 - h)(1 - d)
-- h: student entropy clipped at its 98th percentile, then min-max; d: reverse KL, min-max without
-- a clip, as in the paper. Both over the round. One outlier squeezes d to nearly 0 and leaves an
-- entropy ranking: see soft_or_clipped.
-- Source: TIP, arXiv 2604.14084 (Soft-OR)
WITH round AS (
    SELECT
        min(student_entropy) AS h_low,
        round_quantile(student_entropy, 0.98) AS h_high,
        min(reverse_kl) AS d_low,
        max(reverse_kl) AS d_high
    FROM tokens)
SELECT
    tokens.*,
    unit(student_entropy, h_low, h_high) AS h,
    unit(reverse_kl, d_low, d_high) AS d,
    h + d - h * d AS importance
FROM tokens CROSS JOIN round
