-- Soft-OR with both axes clipped at their 98th percentile.
--
-- importance = h + d - h d = 1 - (1 - h)(1 - d)
-- h: student entropy, d: reverse KL, each clipped at the percentile, then min-max over the round.
-- param percentile = 0.98  where both axes are clipped
-- Source: TIP, arXiv 2604.14084 (Soft-OR; the clip of d is not in the paper)
WITH round AS (
    SELECT
        min(student_entropy) AS h_low,
        round_quantile(student_entropy, getvariable('percentile')) AS h_high,
        min(reverse_kl) AS d_low,
        round_quantile(reverse_kl, getvariable('percentile')) AS d_high
    FROM tokens)
SELECT
    tokens.*,
    unit(student_entropy, h_low, h_high) AS h,
    unit(reverse_kl, d_low, d_high) AS d,
    h + d - h * d AS importance
FROM tokens CROSS JOIN round
