-- The tokens before the models agree for long: the end of a rollout that has lost its way is cut.
--
-- importance = -position, for positions before the cut. z: mean reverse KL over a window. The first
-- `patience` windows in a row with z below s cut the rollout where the first of them begins.
-- s: the `share` quantile over the round's rollouts of the least z of each (the paper's: of the
-- last 4,096 rollouts). The paper spares the start of a response, by a number that it gives in two
-- ways: set `grace`.
-- group: position
-- keep: 1
-- param window = 64  tokens of a window
-- param patience = 4  windows in a row
-- param share = 0.7  quantile of the rollouts' least windows
-- param grace = 0  tokens at the start that no window counts
-- Source: KAT, arXiv 2606.09471
WITH summed AS (
    -- In millionths of a nat, as integers: a sum of floats depends on its order.
    SELECT
        *,
        row_number() OVER (PARTITION BY rollout ORDER BY position) AS place,
        sum(round(1e6 * reverse_kl)::BIGINT) OVER (
            PARTITION BY rollout
            ORDER BY position
            ROWS BETWEEN getvariable('window')::BIGINT - 1 PRECEDING AND CURRENT ROW) AS z
    FROM tokens),
windows AS (
    SELECT rollout, place, z::DOUBLE AS z FROM summed
    WHERE place >= getvariable('window') + getvariable('grace')),
least_windows AS (SELECT min(z) AS z FROM windows GROUP BY rollout),
border AS (SELECT quantile_cont(z, getvariable('share')) AS s FROM least_windows),
counted AS (
    SELECT
        rollout,
        place,
        sum((z < s)::INT) OVER (
            PARTITION BY rollout
            ORDER BY place
            ROWS BETWEEN CURRENT ROW AND getvariable('patience')::BIGINT - 1 FOLLOWING) AS low
    FROM windows CROSS JOIN border),
cuts AS (
    SELECT rollout, min(place) - getvariable('window') + 1 AS cut FROM counted
    WHERE low = getvariable('patience')
    GROUP BY rollout)
SELECT summed.*, -position AS importance
FROM summed LEFT JOIN cuts USING (rollout)
WHERE cut IS NULL OR place < cut
