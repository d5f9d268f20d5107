-- The last tokens of each response: the control of `first`.
--
-- importance = position
-- group: control
-- Source: IW-OPD, arXiv 2606.22600 (last 30 % of the positions)
SELECT *, position AS importance
FROM tokens
