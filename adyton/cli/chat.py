"""`adyton chat`: one question or a conversation, each answer checked against its receipt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from adyton.cli.failures import NotDone
from adyton.cli.options import (
    api_key_option,
    build_trust,
    gpu_options,
    json_option,
    trust_options,
    url_option,
)
from adyton.cli.output import plain, print_json, print_simulated

if TYPE_CHECKING:
    import openai
    from openai.types import CompletionUsage, Model
    from openai.types.chat import ChatCompletionMessageParam

    from adyton.client import Client

MAX_STDIN_CHARS = 1 << 20


def is_embedding_model(model: Model) -> bool:
    """True when the node's listing says, or the model's name suggests, that it only embeds."""
    kind = (model.model_extra or {}).get("kind")
    if isinstance(kind, str):
        return kind.startswith("embed")
    name = model.id.lower()
    return "embed" in name or "minilm" in name


def pick_model(client: openai.OpenAI) -> str:
    """The first model the node lists that can chat."""
    for model in client.models.list():
        if not is_embedding_model(model):
            return model.id
    raise NotDone("the node lists no chat model; name one with --model")


class Conversation:
    """The messages so far, and how an answer is asked for and shown."""

    def __init__(
        self, client: Client, model: str, system: str | None, max_tokens: int | None
    ) -> None:
        self._client = client
        self._model = model
        self._max_tokens = max_tokens
        self.messages: list[dict[str, str]] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    def ask(self, prompt: str, *, show: bool) -> dict[str, Any]:
        """Send `prompt`; returns the answer with its receipt id. Raises as the client does."""
        import openai

        self.messages.append({"role": "user", "content": prompt})
        text = ""
        usage: CompletionUsage | None = None
        stream = self._client.chat.completions.create(
            model=self._model,
            messages=cast("list[ChatCompletionMessageParam]", self.messages),
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=openai.omit if self._max_tokens is None else self._max_tokens,
        )
        try:
            for chunk in stream:
                usage = chunk.usage or usage
                delta = chunk.choices[0].delta.content if chunk.choices else None
                if delta:
                    text += delta
                    if show:
                        sys.stdout.write(plain(delta))
                        sys.stdout.flush()
        finally:
            if show and text:
                click.echo()
        self.messages.append({"role": "assistant", "content": text})
        receipts = self._client.adyton.receipts
        verified = receipts[-1] if receipts else None
        return {
            "answer": text,
            "model": self._model,
            "usage": None if usage is None else usage.model_dump(exclude_none=True),
            "receipt_id": None if verified is None else verified.receipt_id,
        }


def _show_receipt(answer: dict[str, Any]) -> None:
    mark = click.style(
        "✓" if (sys.stderr.encoding or "").lower().startswith("utf") else "ok", "green"
    )
    click.echo(f"{mark} receipt {answer['receipt_id']}", err=True)


def _repl(conversation: Conversation) -> None:
    click.echo("Type a message; an empty line or Ctrl-D ends.", err=True)
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        if not prompt:
            return
        _show_receipt(conversation.ask(prompt, show=True))


def _announce(client: Client) -> None:
    node = client.adyton.node
    report = node.appraisal.report
    click.echo(f"verified {report.tee} node, measurement {report.measurement}", err=True)
    if node.simulated:
        print_simulated(err=True)
    if node.appraisal.inspection_only:
        click.secho(
            f"  policy {node.appraisal.policy_name} accepts any workload: inspection only",
            fg="yellow",
            err=True,
        )


@click.command(name="chat")
@click.argument("prompt", required=False)
@url_option
@trust_options
@gpu_options
@api_key_option
@click.option("--model", metavar="ID", help="The model; the node's first chat model by default.")
@click.option("--system", metavar="TEXT", help="A system message to start with.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Limit each answer.")
@click.option(
    "--receipt-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep a bundle of each exchange here (holds the conversation; mode 0600).",
)
@json_option
def chat(
    *,
    prompt: str | None,
    url: str,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    rim: tuple[Path, ...],
    revocation: tuple[Path, ...],
    api_key: str | None,
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    receipt_dir: Path | None,
    as_json: bool,
) -> None:
    """Chat with a node after verifying it; every answer is checked against its receipt.

    With PROMPT, or a prompt on stdin, one answer; on a terminal, a conversation.
    """
    from adyton.client import Client

    trust = build_trust(root, policy, measurement, rim=rim, revocation=revocation)
    interactive = prompt is None and sys.stdin.isatty() and not as_json
    if prompt is None and not interactive:
        prompt = sys.stdin.read(MAX_STDIN_CHARS + 1).strip()
        if not prompt:
            raise click.UsageError("no prompt: give one as an argument or on stdin")
        if len(prompt) > MAX_STDIN_CHARS:
            raise click.UsageError(f"the prompt is longer than {MAX_STDIN_CHARS} characters")
    with Client(
        base_url=url,
        api_key=api_key,
        policy=trust.policy,
        roots=trust.roots,
        gpu_rims=trust.gpu_rims,
        gpu_rim_roots=trust.gpu_rim_roots,
        gpu_revocation=trust.gpu_revocation,
        receipt_dir=receipt_dir,
    ) as client:
        if not as_json:
            _announce(client)
        conversation = Conversation(client, model or pick_model(client), system, max_tokens)
        if prompt is None:
            _repl(conversation)
            return
        answer = conversation.ask(prompt, show=not as_json)
        if as_json:
            node = client.adyton.node
            print_json(
                answer
                | {
                    "keyset_digest": node.keyset.digest,
                    "measurement": node.appraisal.report.measurement,
                    "simulated": node.simulated,
                    "policy": node.appraisal.policy_name,
                    "inspection_only": node.appraisal.inspection_only,
                }
            )
        else:
            _show_receipt(answer)
