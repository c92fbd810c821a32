"""Decodes one prompt with several presets: the same model, and a different number of forwards."""

from transformers import AutoTokenizer

from d3llm import LLaDAModelLM, checkpoint_path


MODEL = checkpoint_path("student")  # or a folder or Hub id with LLaDA weights
PROMPT = "Tom buys 3 boxes of 4 pens and gives 5 pens away. How many pens does Tom have now?"
PRESETS = ("llada", "fast_dllm", "d3llm")

model = LLaDAModelLM.from_pretrained(MODEL).eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
chat = [{"role": "user", "content": PROMPT}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
for preset in PRESETS:
    output = model.generate(**inputs, preset=preset, max_new_tokens=96, return_dict_in_generate=True)
    answer = output.sequences[0, inputs["input_ids"].shape[1] :]
    print(f"{preset}: {output.forward_passes[0]} forwards, {output.tokens_per_forward[0]:.1f} tokens per forward")
    print(tokenizer.decode(answer, skip_special_tokens=True))
