-- Filter, then reweight: good rollouts only, and more weight where the student can learn.
--
-- weight = (1 + alpha cT)(1 + beta cS); cT = 1 - H(teacher) / max, cS = H(student) / max, with the
-- maxima over the round. Rollouts in the worst `drop` share by mean teacher log-prob are left out.
-- The paper's scaling of the weights to mean 1 cancels in the default loss, a weighted mean.
-- group: both
-- keep: 1
-- param drop = 0.2  share of the rollouts that is left out
-- param alpha = 1  strength of the teacher's confidence
-- param beta = 1  strength of the student's confusion
-- round teacher_max = greatest(max(teacher_entropy), 1e-6)
-- round student_max = greatest(max(student_entropy), 1e-6)
-- Source: FiRe-OPD, arXiv 2606.02684
WITH rated AS (
    -- In millionths of a nat, as integers: a sum of floats depends on its order.
    SELECT rollout, sum(round(1e6 * teacher_logprob)::BIGINT)::DOUBLE / count(*) AS rating
    FROM tokens
    GROUP BY rollout),
kept AS (
    SELECT rollout FROM rated
    WHERE rating >= (
        SELECT list_sort(list(rating))[ceil(getvariable('drop') * (count(*) - 1))::BIGINT + 1]
        FROM rated))
SELECT
    tokens.*,
    (1 + getvariable('alpha') * (1 - teacher_entropy / getvariable('teacher_max')))
        * (1 + getvariable('beta') * student_entropy / getvariable('student_max')) AS weight,
    weight AS importance
FROM tokens JOIN kept USING (rollout)
