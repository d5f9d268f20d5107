-- What all tokens of a run's rounds come to: the plane, the intervals, places and lengths.
--
-- Needs: views tokens, rollouts and selection, each with a column `round`; variables scale (nats
--     from which the axes turn from linear to logarithmic), entropy_end, divergence_end (nats, the
--     ends of the axes), entropy_bins, divergence_bins; the view `cuts` (round, entropy_cut,
--     divergence_cut). A token is trainable here, as a rule sees it.

CREATE MACRO clamped(x) AS CASE WHEN x > 0 THEN x::DOUBLE ELSE 0::DOUBLE END;

-- The bin of x on an axis; page/plane.js draws the same curve.
CREATE MACRO bin(x, axis_end, bins) AS
    least(bins - 1, floor(
        bins * ln(1 + x / getvariable('scale')) / ln(1 + axis_end / getvariable('scale'))
    ))::INTEGER;

CREATE VIEW numbers AS
SELECT
    t.round, t.rollout, t.position,
    clamped(t.student_entropy) AS entropy,
    clamped(t.reverse_kl) AS divergence,
    (s.position IS NOT NULL)::INTEGER AS chosen
FROM tokens AS t
LEFT JOIN selection AS s USING (round, rollout, position)
WHERE t.trainable;

CREATE VIEW plane AS
SELECT
    round,
    bin(divergence, getvariable('divergence_end'), getvariable('divergence_bins'))
        * getvariable('entropy_bins')
        + bin(entropy, getvariable('entropy_end'), getvariable('entropy_bins')) AS cell,
    count(*) AS tokens,
    sum(chosen)::BIGINT AS chosen
FROM numbers
GROUP BY ALL
ORDER BY round, cell;

-- The mean reverse KL with a 95 % interval: tokens of one rollout are alike, so a rollout is what
-- is drawn, and the mean a ratio of its sums.
CREATE VIEW intervals AS
WITH of_rollout AS (
    SELECT round, rollout, sum(divergence) AS d, sum(entropy) AS e, count(*) AS n
    FROM numbers GROUP BY ALL),
means AS (
    SELECT round, sum(d) / sum(n) AS divergence, sum(e) / sum(n) AS entropy, sum(n)::BIGINT AS tokens,
        count(*) AS rollouts
    FROM of_rollout GROUP BY round)
SELECT
    round, tokens, rollouts, entropy, divergence,
    1.96 * sqrt(squares * rollouts / greatest(rollouts - 1, 1)) / tokens AS half
FROM means JOIN (
    SELECT o.round, sum((o.d - m.divergence * o.n) ** 2) AS squares
    FROM of_rollout AS o JOIN means AS m USING (round)
    GROUP BY o.round) USING (round)
ORDER BY round;

-- Shares of a response in tenths: where the tokens of each type lie, and the chosen among them.
CREATE VIEW places AS
WITH long AS (SELECT round, rollout, length FROM rollouts)
SELECT
    round,
    least(9, floor(10 * position / length))::INTEGER AS tenth,
    CASE
        WHEN entropy >= entropy_cut THEN CASE WHEN divergence >= divergence_cut THEN 1 ELSE 2 END
        WHEN divergence >= divergence_cut THEN 3
        ELSE 4
    END AS type,
    count(*) AS tokens,
    sum(chosen)::BIGINT AS chosen
FROM numbers JOIN long USING (round, rollout) JOIN cuts USING (round)
GROUP BY ALL
ORDER BY ALL;

CREATE VIEW ends AS
SELECT
    round,
    count(*) AS rollouts,
    avg(length) AS mean_length,
    quantile_disc(length, [0.1, 0.5, 0.9]) AS lengths,
    count(*) FILTER (stop_reason = 'length') AS cut_off
FROM rollouts
GROUP BY round
ORDER BY round;
