-- The tokens on which the student's own loss exceeds the teacher's most.
--
-- importance = log teacher(token) - log student(token)
-- Source: Rho-1, arXiv 2404.07965, with the teacher as the reference model
SELECT *, teacher_logprob - student_logprob AS importance
FROM tokens
