-- Soft-OR with both axes clipped at their 98th percentile.
--
-- importance = h + d - h d = 1 - (1 - h)(1 - d)
-- h: student entropy, d: reverse KL, each clipped at the percentile, then min-max over the round.
-- group: both
-- param percentile = 0.98  where both axes are clipped
-- round h_low = min(student_entropy)
-- round h_high = round_quantile(student_entropy, getvariable('percentile'))
-- round d_low = min(reverse_kl)
-- round d_high = round_quantile(reverse_kl, getvariable('percentile'))
-- Source: TIP, arXiv 2604.14084 (Soft-OR; the clip of d is not in the paper)
SELECT
    *,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    unit(reverse_kl, getvariable('d_low'), getvariable('d_high')) AS d,
    h + d - h * d AS importance
FROM tokens
