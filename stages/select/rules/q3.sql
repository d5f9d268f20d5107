-- Overconfident tokens: the teacher disagrees and the student is sure.
--
-- importance = KL(teacher || student) (1 - h)
-- h: student entropy clipped at its 98th percentile, then min-max over the round. Forward KL is for
-- ranking only; the training loss is a setting of its own.
-- group: both
-- round h_low = min(student_entropy)
-- round h_high = round_quantile(student_entropy, 0.98)
-- Source: TIP, arXiv 2604.14084 (Q3 only)
SELECT
    *,
    unit(student_entropy, getvariable('h_low'), getvariable('h_high')) AS h,
    forward_kl * (1 - h) AS importance
FROM tokens
