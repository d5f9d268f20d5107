-- All tokens, and where the teacher itself is unsure, all that it holds possible.
--
-- loss = reverse KL, to which forward KL is added where H(teacher) > tau: the Jeffreys divergence.
-- The paper's reverse KL is that of the sampled token, its forward KL over the teacher's top 16 ids;
-- here both are over support and tail.
-- group: both
-- keep: 1
-- param tau = 0.8  nats of teacher entropy above which forward KL is added
-- Source: EOPD, arXiv 2603.07079
SELECT
    *,
    1 AS importance,
    CASE WHEN teacher_entropy > getvariable('tau') THEN 'jeffreys' ELSE 'reverse_kl' END AS loss
FROM tokens
