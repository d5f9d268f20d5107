-- What a rule sees, and the words it may use.
--
-- tokens: the trainable tokens of the round, one row a token. Numbers are DOUBLE; entropies and
--     divergences are clamped at 0 (teacher log-probs of half precision give values like -4e-4).
--     Added: `type`, and the entropies as shares of ln V (`student_entropy_frac`,
--     `teacher_entropy_frac`). What a rule computes over `tokens` is over the whole round.
-- rollouts: rollout, prompt_hash, sample, prompt_length, length, stop_reason, reward, pass_rate.
--     The last two are null where there is no reward; until something gives rewards, who asks for
--     them is refused before any work.
-- unit(x, low, high): x brought to [0, 1] and clipped at both ends; 0 where the range is empty.
-- round_quantile(x, share): quantile_cont(x, share) over `tokens`, without holding all of them.
--
-- Needs: types.sql; views token_table and rollout_table; variables vocabulary, entropy_cut, divergence_cut.

CREATE VIEW tokens AS
WITH numbers AS (
    SELECT * REPLACE (
        clamped(student_entropy) AS student_entropy,
        clamped(teacher_entropy) AS teacher_entropy,
        clamped(reverse_kl) AS reverse_kl,
        clamped(forward_kl) AS forward_kl,
        clamped(jsd) AS jsd,
        clamped(hellinger) AS hellinger,
        student_logprob::DOUBLE AS student_logprob,
        teacher_logprob::DOUBLE AS teacher_logprob,
        student_mass::DOUBLE AS student_mass,
        teacher_mass::DOUBLE AS teacher_mass,
        teacher_mass_top::DOUBLE AS teacher_mass_top,
        overlap::DOUBLE AS overlap,
        signal_to_noise::DOUBLE AS signal_to_noise,
        drift::DOUBLE AS drift)
    FROM token_table
    WHERE trainable)
SELECT
    *,
    student_entropy / ln(getvariable('vocabulary')::DOUBLE) AS student_entropy_frac,
    teacher_entropy / ln(getvariable('vocabulary')::DOUBLE) AS teacher_entropy_frac,
    quadrant_of(
        student_entropy, reverse_kl,
        getvariable('entropy_cut')::DOUBLE, getvariable('divergence_cut')::DOUBLE) AS type
FROM numbers;

-- pass_rate: share of the prompt's rewarded rollouts whose reward is above 0, a ratio of integers.
CREATE VIEW rollouts AS
SELECT
    *,
    (count(*) FILTER (reward > 0) OVER samples)::DOUBLE
        / nullif(count(reward) OVER samples, 0) AS pass_rate
FROM rollout_table
WINDOW samples AS (PARTITION BY prompt_hash);

CREATE MACRO unit(x, low, high) AS
    CASE
        WHEN high <= low OR x <= low THEN 0::DOUBLE
        WHEN x >= high THEN 1::DOUBLE
        ELSE (x - low) / (high - low)
    END;

-- quantile_cont() holds every value: 1.6 GB at 100 M tokens. Here a first pass counts the values of
-- each narrow slot, a second one looks into the one or two slots that hold the wanted place.
-- sqrt() is rounded exactly, so slots are in the order of their values on every machine.
CREATE MACRO slot_of(x) AS floor(16384 * sign(x) * sqrt(sqrt(abs(x))));
CREATE MACRO round_quantile(x, share) AS (
    WITH counted AS (
        SELECT slot_of(x) AS slot, count(*) AS n FROM tokens WHERE x IS NOT NULL GROUP BY slot),
    placed AS (
        SELECT slot, n, sum(n) OVER (ORDER BY slot) AS upto,
            share::DOUBLE * (sum(n) OVER () - 1)::DOUBLE AS place
        FROM counted),
    hit AS (
        SELECT slot, upto - n AS below, place FROM placed
        WHERE upto > floor(place) AND upto - n <= ceil(place)),
    number AS (
        SELECT x AS number, count(*) AS n FROM tokens
        WHERE slot_of(x) IN (SELECT slot FROM hit) GROUP BY number),
    reached AS (
        SELECT number, sum(n) OVER (ORDER BY number) + below AS upto, place
        FROM number CROSS JOIN (SELECT min(below) AS below, min(place) AS place FROM hit)),
    pair AS (
        SELECT
            min(number) FILTER (upto > floor(place)) AS lower,
            min(number) FILTER (upto > ceil(place)) AS upper,
            min(place - floor(place)) AS part
        FROM reached)
    SELECT lower + (upper - lower) * part FROM pair);
