-- Tokens drawn without replacement, with chances in proportion to Soft-OR.
--
-- importance = h + d - h d, with h and d as in soft_or
-- The partner of entropy_sampled: it separates the score from the way of drawing.
-- draw: sample
-- Source: TIP, arXiv 2604.14084 (its score; the paper draws only the entropy rule)
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
