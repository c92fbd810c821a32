"""A server of `d3llm serve` in this process, on loopback."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from d3llm.commands.serve import listen
from d3llm.generation.scheduler import Scheduler


@contextmanager
def serving(model, tokenizer, *, rows=8, names=("tiny",), shutdown_seconds=5, **limits):
    """Serves a model; has its `url`, `worker` and an `openai` client without retries."""
    import openai

    from d3llm.commands.serve_app import Server, build_app
    from d3llm.commands.serve_requests import Limits
    from d3llm.commands.serve_worker import Worker

    limits = Limits(**limits)
    worker = Worker(Scheduler(model, tokenizer, rows=rows), limits.requests)
    worker.start()
    with listen("127.0.0.1", 0) as listening:
        app = build_app(worker, tokenizer, list(names), limits)
        server = Server(app, worker, shutdown_seconds, log_level="error")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        try:
            yield SimpleNamespace(url=url, port=port, worker=worker, client=client, server=server)
        finally:
            client.close()
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive() and not worker.thread.is_alive()


def wait_until(condition, seconds=20):
    """Waits for another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
