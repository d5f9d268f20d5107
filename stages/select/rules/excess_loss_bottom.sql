-- The tokens that the teacher finds less probable than the student by most.
--
-- importance = log student(token) - log teacher(token)
-- The paper keeps one a rollout, the lowest reward: `count = 1`.
-- group: disagreement
-- Source: Extremely Sparse Supervision, arXiv 2609.04565 (the token of the lowest reward)
SELECT *, student_logprob - teacher_logprob AS importance
FROM tokens
