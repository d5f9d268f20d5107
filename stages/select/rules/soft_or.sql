-- Soft-OR: tokens where the student is uncertain or disagrees with the teacher.
--
-- importance = h + d - h d = 1 - (1 - h)(1 - d)
-- h: student entropy clipped at its 98th percentile, then min-max; d: reverse KL, min-max without
-- a clip, as in the paper. Both over the round. One outlier squeezes d to nearly 0 and leaves an
-- entropy ranking: see soft_or_clipped.
-- group: both
-- round h_low = min(student_entropy)
-- round h_high = round_quantile(student_entropy, 0.98)
-- round d_low = min(reverse_kl)
-- round d_high = max(reverse_kl)
-- Source: TIP, arXiv 2604.14084 (Soft-OR)
SELECT
    *,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    unit(reverse_kl, getvariable('d_low'), getvariable('d_high')) AS d,
    h + d - h * d AS importance
FROM tokens
