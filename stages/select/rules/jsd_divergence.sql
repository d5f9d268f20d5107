-- The tokens with the largest Jensen-Shannon divergence.
--
-- importance = JSD(student, teacher), equal weights
-- S2D-OPD ranks by the same divergence, but between the teacher and a reference model.
-- group: disagreement
SELECT *, jsd AS importance
FROM tokens
