-- The tokens that the student itself found improbable become rarer: the control without a teacher.
--
-- importance = -log student(token); loss = suppress, the log-prob of the token, times
-- weight = 3/4 + delta r / 4; r: student entropy, brought to [-1, 1] between its least and its
-- largest among the `lowest` share of the response by log-prob. delta = 0: a fixed
-- advantage. The paper divides by the number of tokens, the default `normalise` by their weights.
-- group: control
-- param delta = 1  how far a token's weight follows its entropy
-- param lowest = 0.2  the share of the response whose entropies set that range, the paper's budget
-- Source: OPSA, arXiv 2608.31046, equations 4 and 5
WITH ranked AS (
    SELECT
        rollout,
        student_entropy,
        row_number() OVER (PARTITION BY rollout ORDER BY student_logprob, position) AS place,
        count(*) OVER (PARTITION BY rollout) AS tokens
    FROM tokens),
scale AS (
    SELECT rollout, min(student_entropy) AS low, max(student_entropy) AS high
    FROM ranked
    WHERE place <= greatest(1, floor(getvariable('lowest') * tokens + 1e-9))
    GROUP BY rollout)
SELECT
    tokens.*,
    -student_logprob AS importance,
    0.75 + getvariable('delta') * (2 * unit(student_entropy, low, high) - 1) / 4 AS weight,
    'suppress' AS loss
FROM tokens JOIN scale USING (rollout)
