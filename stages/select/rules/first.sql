-- The first tokens of each response: its first `keep` share.
--
-- importance = -position
-- group: position
-- Source: IW-OPD, arXiv 2606.22600 (first 30 % of the positions)
SELECT *, -position AS importance
FROM tokens
