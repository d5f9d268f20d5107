-- The tokens that the student itself found improbable. Needs no teacher.
--
-- importance = -log student(token)
-- group: uncertainty
-- Source: arXiv 2608.31046
SELECT *, -student_logprob AS importance
FROM tokens
