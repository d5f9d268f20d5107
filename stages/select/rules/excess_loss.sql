-- The tokens on which the student's own loss exceeds the teacher's most.
--
-- importance = log teacher(token) - log student(token)
-- With `count = 1` the token of each rollout with the highest reward of sampled distillation.
-- group: disagreement
-- Source: Rho-1, arXiv 2404.07965 (with the teacher as the reference model); Extremely Sparse
--     Supervision, arXiv 2609.04565
SELECT *, teacher_logprob - student_logprob AS importance
FROM tokens
