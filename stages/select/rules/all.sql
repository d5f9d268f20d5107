-- Every trainable token: on-policy distillation without selection.
--
-- group: control
-- keep: 1
-- Source: TIP, arXiv 2604.14084 (the baseline "all")
SELECT *, 1 AS importance
FROM tokens
