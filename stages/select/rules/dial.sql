-- The tokens whose probability the models disagree on most, as a dial between ratio and gap.
--
-- importance = |a|^(1 - beta) |Q - S|^beta; a = log Q - log S, S and Q the probabilities that
-- student and teacher give the token. It is |a| times the logarithmic mean of Q and S to the power
-- beta: at 0 the log-ratio alone, which also ranks tokens high that both models find improbable;
-- at 1 the gap; beyond, more weight on probable tokens (the paper's second choice is 1.2).
-- group: disagreement
-- param beta = 1  how much the probabilities count
-- Source: DIAL-OPD, arXiv 2610.11659, eq. 5 (it keeps 40 % of each response)
WITH compared AS (
    SELECT
        *,
        abs(teacher_logprob - student_logprob) AS ratio,
        abs(exp(teacher_logprob) - exp(student_logprob)) AS gap
    FROM tokens)
SELECT
    *,
    CASE
        WHEN ratio = 0 THEN 0
        ELSE pow(ratio, 1 - getvariable('beta')) * pow(gap, getvariable('beta'))
    END AS importance
FROM compared
