-- Every token, weighed by how much the teacher favours it.
--
-- weight = 1 / (1 + exp(-beta a)); a = log teacher(token) - log student(token)
-- group: disagreement
-- keep: 1
-- param beta = 5  sharpness of the gate
-- Source: SDAR, arXiv 2605.15155 (its gate; the reinforcement beside it is not part of the rule)
SELECT
    *,
    -- exp() has no number beyond 709
    1 / (1 + exp(least(getvariable('beta') * (student_logprob - teacher_logprob), 700))) AS weight,
    weight AS importance
FROM tokens
