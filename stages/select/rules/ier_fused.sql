-- Reliable or useful tokens: the rank of the IER and Soft-OR, joined by a soft or.
--
-- importance = r + u - r u; r: rank of signal_to_noise over the round, 0 to 1; u = h + d - h d;
-- h: student entropy, d: forward KL, each brought to [0, 1] between its 5th and 95th percentile over
-- the round. The paper's budget is the round's (`scope = "round"`), with one token a response at
-- least.
-- group: both
-- param low = 0.05  lower percentile
-- param high = 0.95  upper percentile
-- round h_low = round_quantile(student_entropy, getvariable('low'))
-- round h_high = round_quantile(student_entropy, getvariable('high'))
-- round d_low = round_quantile(forward_kl, getvariable('low'))
-- round d_high = round_quantile(forward_kl, getvariable('high'))
-- Source: IER-OPD, arXiv 2609.24432 (TIP + IER-OR, as its released code has it, which takes both
--     numbers over the top ids of both models)
SELECT
    *,
    percent_rank() OVER (ORDER BY signal_to_noise) AS r,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    unit(forward_kl, getvariable('d_low'), getvariable('d_high')) AS d,
    h + d - h * d AS u,
    r + u - r * u AS importance
FROM tokens
