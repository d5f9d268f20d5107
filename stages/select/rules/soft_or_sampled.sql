-- Tokens drawn without replacement, with chances in proportion to Soft-OR.
--
-- importance = h + d - h d, with h and d as in soft_or
-- The partner of entropy_sampled: it separates the score from the way of drawing.
-- group: both
-- draw: sample
-- round h_low = min(student_entropy)
-- round h_high = round_quantile(student_entropy, 0.98)
-- round d_low = min(reverse_kl)
-- round d_high = max(reverse_kl)
-- Source: TIP, arXiv 2604.14084 (its score; the paper draws only the entropy rule)
SELECT
    *,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    unit(reverse_kl, getvariable('d_low'), getvariable('d_high')) AS d,
    h + d - h * d AS importance
FROM tokens
