-- Only the tokens that the teacher does not favour, the least favoured first.
--
-- importance = -a where a <= 0; a = log teacher(token) - log student(token)
-- Where a is positive the paper keeps the sampled reward; here such tokens are left out.
-- group: disagreement
-- Source: AOPD, arXiv 2605.06387 (divergence in regions of non-positive advantage)
WITH compared AS (SELECT *, teacher_logprob - student_logprob AS advantage FROM tokens)
SELECT *, CASE WHEN advantage <= 0 THEN -advantage END AS importance
FROM compared
