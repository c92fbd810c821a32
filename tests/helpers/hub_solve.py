"""A process in which the package cannot be imported: downloads a model and solves problems with it.

Arguments: a repository, a JSON file with questions, the file for the answers.
"""

import json
import sys
from pathlib import Path

from hub_download import NoPackage


if __name__ == "__main__":
    sys.meta_path.insert(0, NoPackage())

from transformers import AutoModelForCausalLM, AutoTokenizer


def main(repo: str, questions: Path, answers: Path):
    model = AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=True, padding_side="left")
    chats = [[{"role": "user", "content": question}] for question in json.loads(questions.read_text())]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, return_dict_in_generate=True)
    texts = tokenizer.batch_decode(output.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    answers.write_text(json.dumps({"texts": texts, "forwards": output.forward_passes.tolist()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
