-- From a rule's importance to the selection: the same for all rules.
--
-- Needs: the views of tokens.sql; the view `scored` (rollout, position, type, reverse_kl,
--     importance, weight, loss), which lacks the tokens that the rule or `where` leaves out; the view
--     `rollout_weights` (rollout, rollout_weight); variables keep, count (null: keep decides),
--     scope, draw, corrected, seed_low, seed_high.
-- Use: fill `threshold` from the view of the scope (once for each slice), copy it into `budget`,
--     and read the views `clear` and `tied`: their rows together are the selection.

-- Noise is written out in integers: hash() and random() differ between versions and threads. A
-- lane is 32 bits in a UBIGINT, so no product overflows. `mixed` is the finaliser of MurmurHash3
-- (Appleby, public domain). A macro is pasted, not called, and pastes x eight times: a chain of
-- them goes through columns.
CREATE MACRO stirred(x, shift, factor) AS (xor(x, x >> shift) * factor) & 4294967295;
CREATE MACRO mixed(x) AS
    xor(stirred(stirred(x, 16, 2246822507), 13, 3266489909),
        stirred(stirred(x, 16, 2246822507), 13, 3266489909) >> 16);

-- One row a rollout: its scope with m trainable tokens, k of them to keep; two lanes of noise; and
-- the scope's threshold, filled in later: tau is the k-th largest score, `next` the one after it
-- (null: all are kept), `above` how many lie above tau.
CREATE TEMP TABLE budget AS
WITH counted AS (
    SELECT
        rollout,
        CASE WHEN getvariable('scope') = 'round' THEN 0::BIGINT ELSE rollout END AS scope_id,
        count(*) AS tokens,
        rollout::UBIGINT & 4294967295 AS low,
        rollout::UBIGINT >> 32 AS high
    FROM tokens
    GROUP BY rollout),
seeded AS (
    SELECT *,
        mixed(xor(low, getvariable('seed_low')::UBIGINT)) AS a,
        mixed(xor(high, getvariable('seed_high')::UBIGINT)) AS b
    FROM counted),
crossed AS (SELECT *, mixed(xor(a, high)) AS c, mixed(xor(b, low)) AS d FROM seeded),
scopes AS (SELECT scope_id, sum(tokens)::BIGINT AS m FROM counted GROUP BY scope_id)
SELECT
    rollout,
    scope_id,
    m,
    least(m, coalesce(
        getvariable('count')::BIGINT,
        greatest(1, floor(getvariable('keep')::DOUBLE * m + 1e-9))::BIGINT)) AS k,
    mixed(xor(c, b)) AS first_lane,
    mixed(xor(d, a)) AS second_lane,
    rollout_weight,
    NULL::DOUBLE AS tau,
    NULL::DOUBLE AS next,
    NULL::BIGINT AS above
FROM crossed
JOIN scopes USING (scope_id)
LEFT JOIN rollout_weights USING (rollout);

-- `score` is what the k largest are taken of. A draw without replacement with chances in
-- proportion to importance takes the k smallest Exp(1) / importance (Efraimidis and Spirakis
-- 2006), the k largest of its negative: ln(u) / importance with u in (0, 1). Importance 0 or less
-- gives -infinity, the end of the queue. No CASE around the noise: inside one it would be computed
-- anew at each of its places in the text.
CREATE VIEW candidates AS
WITH placed AS (
    SELECT
        scored.*, scope_id, m, k, rollout_weight, tau, next, above, second_lane,
        mixed(xor(first_lane, position::UBIGINT)) AS lane
    FROM scored JOIN budget USING (rollout)),
noisy AS (
    SELECT * EXCLUDE (lane, second_lane), mixed(xor(lane, second_lane)) AS noise FROM placed)
SELECT
    *,
    CASE
        WHEN getvariable('draw') = 'top' THEN importance
        ELSE ln((noise::DOUBLE + 0.5) / 4294967296) / greatest(importance, 0::DOUBLE)
    END AS score
FROM noisy;

-- One row a scope, from one of the two views below.
CREATE TEMP TABLE threshold (
    scope_id BIGINT, tau DOUBLE, next DOUBLE, above BIGINT, broken BIGINT);

-- To sort whole rollouts instead costs nearly three times as much. The k + 1 best are held in
-- memory: `slices` bounds them.
CREATE VIEW rollout_threshold AS
WITH ranked AS (
    SELECT
        scope_id,
        any_value(k) AS k,
        max(score, k + 1) FILTER (k < m) AS best,
        count_if(NOT isfinite(importance)) AS broken
    FROM candidates
    WHERE rollout % getvariable('slices')::BIGINT = getvariable('slice')::BIGINT
    GROUP BY scope_id)
SELECT
    scope_id,
    best[k] AS tau,
    best[k + 1] AS next,
    list_position(best, best[k]) - 1 AS above,
    broken
FROM ranked;

CREATE VIEW round_threshold AS
WITH ranked AS (
    SELECT list(score ORDER BY score DESC) AS best
    FROM (
        SELECT score FROM candidates
        WHERE k < m
        ORDER BY score DESC
        LIMIT 2 OFFSET (SELECT coalesce(min(k), 1) - 1 FROM budget)))
SELECT
    0::BIGINT AS scope_id,
    any_value(best[1]) AS tau,
    any_value(best[2]) AS next,
    count(*) FILTER (score > best[1]) AS above,
    count_if(NOT isfinite(importance)) AS broken
FROM candidates CROSS JOIN ranked
HAVING count(*) > 0;

-- corrected: one over the chance to be among the k smallest, given the (k+1)-th. What is sorted in
-- the end is narrow: FLOAT where that is enough.
CREATE VIEW weighed AS
SELECT
    * REPLACE (reverse_kl::FLOAT AS reverse_kl),
    (weight
        * rollout_weight
        * CASE
            WHEN getvariable('corrected') AND isfinite(next)
                THEN 1 / (1 - exp(importance * next))
            ELSE 1
        END)::FLOAT AS full_weight
FROM candidates;

CREATE VIEW clear AS
SELECT rollout, position, full_weight AS weight, loss, type, importance, reverse_kl
FROM weighed
WHERE tau IS NULL OR score > tau OR (score = tau AND next IS DISTINCT FROM tau);

-- Where tau itself is shared, the larger reverse KL goes first, then noise decides.
CREATE VIEW tied AS
SELECT rollout, position, full_weight AS weight, loss, type, importance, reverse_kl
FROM weighed
WHERE score = tau AND next = tau
QUALIFY row_number() OVER (
    PARTITION BY scope_id
    ORDER BY
        CASE WHEN getvariable('draw') = 'top' THEN reverse_kl ELSE 0 END DESC,
        noise, rollout, position) <= k - above;
