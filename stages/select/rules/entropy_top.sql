-- The tokens with the highest student entropy.
--
-- importance = H(student)
-- Deterministic. TIP itself draws at random in proportion to entropy: see entropy_sampled.
-- group: uncertainty
-- Source: SE-KD, arXiv 2602.01395; Beyond the 80/20 Rule, arXiv 2506.01939
SELECT *, student_entropy AS importance
FROM tokens
