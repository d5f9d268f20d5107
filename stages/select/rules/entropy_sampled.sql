-- Tokens drawn without replacement, with chances in proportion to student entropy.
--
-- importance = H(student)
-- TIP's entropy rule as it was run. Its loss is not corrected for the chances: `corrected` does.
-- group: uncertainty
-- draw: sample
-- Source: TIP, arXiv 2604.14084 (entropy rule)
SELECT *, student_entropy AS importance
FROM tokens
