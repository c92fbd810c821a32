from .decoding import DecodedPrompt, DecodingResult, encode_prompt, evaluate_decoding, wilson_interval


__all__ = ["DecodedPrompt", "DecodingResult", "encode_prompt", "evaluate_decoding", "wilson_interval"]
