-- The tokens with the largest reward of PowerOPD, of either sign.
--
-- importance = |Q^alpha - S^alpha| / alpha; S and Q are the probabilities that student and teacher
-- give the token. Bounded, unlike the log-ratio, which it nears as alpha nears 0. PowerOPD trains
-- on all tokens with this reward in place of the log-ratio; here it ranks them.
-- group: disagreement
-- param alpha = 5  power; the larger, the less improbable tokens count
-- Source: PowerOPD, arXiv 2606.17199 (reward; alpha as its released script sets it)
SELECT
    *,
    abs(exp(getvariable('alpha') * teacher_logprob) - exp(getvariable('alpha') * student_logprob))
        / getvariable('alpha') AS importance
FROM tokens
