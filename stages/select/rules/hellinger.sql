-- The tokens with the largest Hellinger distance between student and teacher.
--
-- importance = Hellinger distance
-- group: disagreement
-- Source: AdaKD, arXiv 2510.11615 (loss-driven adaptive token focusing; its schedule of the
--     share is not part of the rule: set `keep`)
SELECT *, hellinger AS importance
FROM tokens
