"""One problem of HumanEval and one of MBPP, as the published files have them."""

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from math import floor\n\n\ndef helper(x):\n    return x\n\n\ndef half(x):\n    """Half."""\n',
    "canonical_solution": "    return floor(helper(x) / 2)\n",
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(5) == 2\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return Node(a + b).x",
    "test_list": ["assert add(1, 2) == three", "assert add(0, 0) == 0", "assert add(1, 1) == 2"],
    "test_setup_code": "three = add(1, 2)",
}
