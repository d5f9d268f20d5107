-- Every token, weighed down by how far the models have come apart before it.
--
-- weight = 1 + gamma (1 - A(t) / max(A, 1e-6)); A(t): the sum of |a| over the tokens before t, A: of
-- all of the rollout; a = log teacher(token) - log student(token)
-- group: position
-- keep: 1
-- param gamma = 0.5  how much more the first token counts than the last
-- Source: IW-OPD, arXiv 2606.22600, algorithm 1
WITH apart AS (
    -- In millionths of a nat, as integers: a sum of floats depends on its order.
    SELECT *, round(1e6 * abs(teacher_logprob - student_logprob))::BIGINT AS millionths FROM tokens),
summed AS (
    SELECT
        * EXCLUDE (millionths),
        coalesce(sum(millionths) OVER (
            PARTITION BY rollout
            ORDER BY position
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::DOUBLE AS before,
        sum(millionths) OVER (PARTITION BY rollout)::DOUBLE AS whole
    FROM apart)
SELECT
    *,
    1 + getvariable('gamma') * (1 - before / greatest(whole, 1)) AS weight,
    weight AS importance
FROM summed
