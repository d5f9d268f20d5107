-- Both ends of each rollout's log-ratios: the tokens the teacher favours most and least.
--
-- importance = -the lesser of the two ranks of a within the rollout, from below and from above;
-- a = log teacher(token) - log student(token)
-- `count = 2` keeps the lowest and the highest of each rollout, `keep = 0.001` its upper and lower
-- 0.05 % (the paper's two tails). `random` with `count = 1` is its control.
-- group: disagreement
-- Source: Extremely Sparse Supervision, arXiv 2609.04565
WITH ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY rollout
            ORDER BY teacher_logprob - student_logprob, position) AS from_below,
        row_number() OVER (
            PARTITION BY rollout
            ORDER BY teacher_logprob - student_logprob DESC, position) AS from_above
    FROM tokens)
SELECT *, -least(from_below, from_above) AS importance
FROM ranked
