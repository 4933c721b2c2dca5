"""`adyton demo`: the whole promise on one machine, each claim tried and each lie refused.

Loopback only. The node is simulated: what is shown is how verification works, not that
this machine keeps a secret.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.demo_node import RunningNode, running_node
from adyton.cli.output import Steps, plain, print_json, print_simulated

if TYPE_CHECKING:
    import openai

    from adyton.bundle import Bundle
    from adyton.trust import Established, Trust

QUESTION = "What is the opposite of hot?"
FOLLOW_UP = "List three fruits."


class CheckFailed(click.ClickException):
    """Something the demonstration claims did not happen."""


class Demo:
    """The checks, in the order a person would try them."""

    def __init__(self, steps: Steps, folder: Path, *, chain: bool = True) -> None:
        self.steps = steps
        self.folder = folder
        self.chain = chain
        self.gas: dict[str, int] = {}

    @contextmanager
    def check(self, name: str) -> Generator[list[str]]:
        """Count one check; what is put into the list becomes its detail."""
        started = time.monotonic()
        detail: list[str] = []
        try:
            yield detail
        except Exception as e:
            self.steps.fail(name, f"{type(e).__name__}: {e}", took_s=time.monotonic() - started)
        else:
            self.steps.ok(name, "\n".join(detail), took_s=time.monotonic() - started)

    def refused(self, name: str, kind: type[Exception], attempt: Callable[[], object]) -> None:
        """Count one check: `attempt` must raise exactly this kind of refusal."""
        with self.check(name) as detail:
            try:
                attempt()
            except kind as e:
                detail.append(f"{type(e).__name__}: {e}"[:300])
            else:
                raise CheckFailed("it was accepted")

    # --- the acts ------------------------------------------------------------------

    def verify(self, node: RunningNode, trust: Trust) -> Established:
        from adyton.cli.verify import run_verification

        established = run_verification(node.url, trust, self.steps)
        with self.check("the keys are those the node announced") as detail:
            if established.keyset_digest != node.keyset_digest:
                raise CheckFailed(f"{established.keyset_digest} is not {node.keyset_digest}")
            detail.append(node.keyset_digest)
        return established

    def chat_unmodified(
        self, node: RunningNode, established: Established, key: str
    ) -> Bundle | None:
        """The `openai` package as it is, over a TLS context that trusts the verified key."""
        import httpx2
        import openai

        from adyton.verify import pinned_context

        self.steps.title("Chatting through the unmodified openai package")
        pinned = httpx2.Client(verify=pinned_context(established), trust_env=False)
        client = openai.OpenAI(
            base_url=f"{node.url}/v1", api_key=key, http_client=pinned, max_retries=0
        )
        bundle = None
        with client:
            chat, embedder = self.models(client)
            with self.check("a plain answer") as detail:
                bundle, text = self.plain(client, chat, established)
                detail += [f"> {QUESTION}", f"< {text}"]
            with self.check("a streamed answer") as detail:
                detail += [f"> {FOLLOW_UP}", f"< {self.streamed(client, chat, FOLLOW_UP)}"]
            with self.check("embeddings") as detail:
                vectors = client.embeddings.create(model=embedder, input=["one", "two"]).data
                size = len(vectors[0].embedding)
                if len(vectors) != 2 or size == 0:
                    raise CheckFailed(f"{len(vectors)} vectors of {size} numbers")
                detail.append(f"2 vectors of {size} numbers from {embedder}")
        return bundle

    @staticmethod
    def models(client: openai.OpenAI) -> tuple[str, str]:
        """The ids of a chat model and of an embedding model that the node lists."""
        from adyton.cli.chat import is_embedding_model

        listed = list(client.models.list())
        chat = next((m.id for m in listed if not is_embedding_model(m)), "")
        return chat, next((m.id for m in listed if is_embedding_model(m)), "")

    @staticmethod
    def plain(client: openai.OpenAI, model: str, established: Established) -> tuple[Bundle, str]:
        """One answer, and a bundle of its receipt with the exact bytes of both bodies."""
        import httpx2

        from adyton.bundle import Bundle
        from adyton.trust import parse_object

        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=40,
            seed=7,
            temperature=0,
        )
        response = raw.http_response
        text = raw.parse().choices[0].message.content or ""
        if not text.strip():
            raise CheckFailed("the answer is empty")
        served = client.get(f"/aci/receipts/{raw.headers['x-receipt-id']}", cast_to=httpx2.Response)
        return (
            Bundle(
                report=established.report,
                nonce=established.nonce,
                receipt=parse_object(served.content, "receipt"),
                received_at=established.verified_at_unix,
                request_body=response.request.content,
                response_body=response.content,
            ),
            text,
        )

    @staticmethod
    def streamed(client: openai.OpenAI, model: str, prompt: str) -> str:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=40,
            seed=7,
            temperature=0,
            stream=True,
        )
        parts = [c.choices[0].delta.content or "" for c in stream if c.choices]
        text = "".join(parts)
        if len(parts) < 2 or not text.strip():
            raise CheckFailed(f"{len(parts)} parts: {text!r}")
        return text

    def chat_verifying(self, node: RunningNode, trust: Trust, key: str) -> None:
        """Our own client: the same calls, nothing left to the caller."""
        from adyton.client import Client

        self.steps.title("Chatting through adyton.Client")
        receipts = self.folder / "receipts"
        with (
            self.check("each answer, streamed too, matches its signed receipt") as detail,
            Client(
                base_url=node.url,
                api_key=key,
                policy=trust.policy,
                roots=trust.roots,
                receipt_dir=receipts,
            ) as client,
        ):
            chat, _ = self.models(client)
            detail.append(f"< {self.streamed(client, chat, FOLLOW_UP)}")
            verified = client.adyton.receipts[-1].receipt
            detail.append(f"receipt {verified.receipt_id}")
            detail.append(f"weights {verified.model_digest}")
            if len(list(receipts.glob("*.json"))) != 1:
                raise CheckFailed("the receipt's bundle was not kept")

    def receipt_offline(self, bundle: Bundle, trust: Trust) -> None:
        """The kept exchange, judged from its file alone."""
        from adyton.bundle import Bundle as Kept
        from adyton.errors import ReceiptError

        self.steps.title("Checking the receipt offline")
        path = bundle.save(self.folder)
        now = int(time.time())
        with self.check("the receipt holds for the exact bytes asked and answered") as detail:
            _, checked = Kept.load(path).verify(trust, now=now)
            if not (checked.checked_request and checked.checked_response):
                raise CheckFailed("a body was not compared")
            detail.append(f"receipt {checked.receipt_id} for {checked.endpoint}")
            detail.append(f"weights {checked.model_digest}")
        lies = {
            "answer": replace(bundle, response_body=flipped(bundle.response_body)),
            "question": replace(bundle, request_body=flipped(bundle.request_body)),
        }
        for name, lie in lies.items():
            self.refused(
                f"one flipped bit in the {name} is refused",
                ReceiptError,
                partial(lie.verify, trust, now=now),
            )

    def refusals(self, node: RunningNode, trust: Trust, key: str) -> None:
        """What must not be believed."""
        from adyton.client import Client
        from adyton.endpoint import Endpoint
        from adyton.verify import establish
        from attestation.errors import PolicyError, VerificationError
        from attestation.policy import load_policy
        from attestation.roots import INTEL_SGX_ROOT

        self.steps.title("Trying what must be refused")
        endpoint = Endpoint.parse(node.url)
        intel = replace(trust, roots=(INTEL_SGX_ROOT,))
        self.refused(
            "under Intel's root the simulator is refused",
            VerificationError,
            lambda: establish(endpoint, intel),
        )
        wrong = ("0" if node.measurement[0] != "0" else "1") + node.measurement[1:]
        other = replace(trust, policy=load_policy("strict").with_measurement(wrong))
        self.refused(
            "another measurement is refused", PolicyError, lambda: establish(endpoint, other)
        )

        def send_anyway() -> None:
            with Client(
                base_url=node.url, api_key=key, policy=other.policy, roots=trust.roots
            ) as client:
                client.chat.completions.create(
                    model="any", messages=[{"role": "user", "content": "a secret"}]
                )

        self.refused("and its client does not send the prompt", PolicyError, send_anyway)

    def on_chain(
        self,
        node: RunningNode,
        trust: Trust,
        key: str,
        established: Established,
        bundle: Bundle | None,
    ) -> None:
        """The same node and an answer of its own, judged by contracts."""
        from adyton.cli.demo_chain import run_chain

        if bundle is None:
            raise CheckFailed("there is no answer to have judged on a chain")
        try:
            run_chain(self, node.url, trust, key, (established, bundle))
        except Exception as e:
            self.steps.fail("the chain's part could not go on", f"{type(e).__name__}: {e}")

    def stop(self, node: RunningNode) -> None:
        self.steps.title("Stopping")
        with self.check("the node stops when asked"):
            code = node.stop()
            if code != 0:
                raise CheckFailed(f"it ended with code {code}")

    def run(self) -> None:
        """All acts. A failed check does not stop the others; a missing node does."""
        from adyton.cli.options import read_policy
        from adyton.trust import Trust

        self.steps.title("Starting a node")
        started = time.monotonic()
        with ExitStack() as stack:
            with self.steps.waiting("loading the models"):
                node = stack.enter_context(running_node(self.folder / "state"))
            self.steps.ok("node is ready", node.url, took_s=time.monotonic() - started)
            if not self.steps.quiet:
                print_simulated()
            key = node.create_key("demo")
            self.steps.ok("API key created")
            trust = Trust(policy=read_policy("strict", node.measurement), roots=(node.root,))
            established = self.verify(node, trust)
            bundle = self.chat_unmodified(node, established, key)
            self.chat_verifying(node, trust, key)
            if bundle is not None:
                self.receipt_offline(bundle, trust)
            if self.chain:
                self.on_chain(node, trust, key, established, bundle)
            self.refusals(node, trust, key)
            self.stop(node)


def flipped(body: bytes | None) -> bytes:
    """`body` with one bit of its middle byte changed."""
    changed = bytearray(body or b"\0")
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@click.command(name="demo")
@click.option("--no-chain", is_flag=True, help="Leave out the part on a local EVM chain.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def demo(no_chain: bool, as_json: bool) -> int:
    """Start a simulated node, verify it, chat, check receipts, and try to cheat.

    Then the same on a local EVM chain: contracts that verify the node, and pay for its
    answer only if it is genuine. Needs adyton[node,onchain] and anvil, which `make demo`
    installs. Uses the loopback interface only.
    """
    from adyton.cli.failures import NotDone, failure_of
    from adyton.cli.node import missing

    if absent := missing():
        raise NotDone(
            f"the node is not installed ({', '.join(absent)} missing): pip install 'adyton[node]'"
        )
    if not no_chain:
        from adyton.cli.demo_chain import require_chain

        require_chain()
    steps = Steps(quiet=as_json)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adyton-demo-") as folder:
        shown = Demo(steps, Path(folder), chain=not no_chain)
        try:
            shown.run()
        except Exception as e:
            failure = failure_of(e)
            steps.fail("the demonstration could not go on", f"{failure.error}: {failure.reason}")
    took_s = time.monotonic() - started
    if as_json:
        document: dict[str, Any] = {
            "ok": steps.failed == 0,
            "checks": len(steps.records),
            "failed": steps.failed,
            "seconds": round(took_s, 1),
            "gas": shown.gas,
            "steps": steps.records,
        }
        print_json(document)
    else:
        click.echo()
        if steps.failed:
            click.echo(plain(f"demo: failed ({steps.failed} of {len(steps.records)} checks)"))
        else:
            click.echo(f"demo: ok ({steps.passed} checks)")
    return 1 if steps.failed else 0
