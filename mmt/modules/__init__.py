"""The MoE layer and its parts, in plain torch: ``MoELayer = Router -> Dispatch -> Experts -> combine``."""
