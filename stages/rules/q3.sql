-- Overconfident tokens: the teacher disagrees and the student is sure.
--
-- importance = KL(teacher || student) (1 - h)
-- h: student entropy clipped at its 98th percentile, then min-max over the round. Forward KL is for
-- ranking only; the training loss is a setting of its own.
-- Source: TIP, arXiv 2604.14084 (Q3 only)
WITH round AS (
    SELECT min(student_entropy) AS h_low, round_quantile(student_entropy, 0.98) AS h_high
    FROM tokens)
SELECT tokens.*, forward_kl * (1 - unit(student_entropy, h_low, h_high)) AS importance
FROM tokens CROSS JOIN round
