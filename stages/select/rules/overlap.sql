-- Every token, weighed down by how often the models' top ids have come apart up to it.
--
-- weight = base + max(0, 1 - drop n); n: tokens of the rollout up to this one whose overlap of both
-- models' 16 most probable ids is below the threshold
-- Prune-OPD also ends rollouts while they are sampled, which a selection cannot.
-- group: position
-- keep: 1
-- param threshold = 0.7  overlap below which a token counts as apart
-- param drop = 0.01  what each such token takes
-- param base = 0.5  what remains of the weight
-- Source: Prune-OPD, arXiv 2605.07804 (values of its released scripts)
WITH counted AS (
    SELECT
        *,
        sum((overlap < getvariable('threshold'))::INT) OVER (
            PARTITION BY rollout
            ORDER BY position
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)::DOUBLE AS times_apart
    FROM tokens)
SELECT
    *,
    getvariable('base') + greatest(0, 1 - getvariable('drop') * times_apart) AS weight,
    weight AS importance
FROM counted
