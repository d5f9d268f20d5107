-- The tokens with the lowest Soft-OR: a control that should teach nothing.
--
-- importance = -(h + d - h d), with h and d as in soft_or
-- group: control
-- round h_low = min(student_entropy)
-- round h_high = round_quantile(student_entropy, 0.98)
-- round d_low = min(reverse_kl)
-- round d_high = max(reverse_kl)
-- Source: TIP, arXiv 2604.14084 (Soft-OR, bottom 50 %)
SELECT
    *,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    unit(reverse_kl, getvariable('d_low'), getvariable('d_high')) AS d,
    -(h + d - h * d) AS importance
FROM tokens
