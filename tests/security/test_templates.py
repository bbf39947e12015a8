"""Chat templates are programs in Jinja, and come with requests: what they could reach, how long and how large."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine import template_rendering
from engine.config import TemplateConfig
from engine.errors import InvalidQuery, MalformedRow
from engine.template_rendering import RENDERER, TemplateRenderer
from engine.text import TextEncoder
from engine.types import Example, Message
from tests.engine.tokenizer_factory import CHATML, byte_level

TALK = (Message("user", "Hi"), Message("assistant", "Hello"))

INSIDE = {
    "the classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by a filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "by format_map": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "by an attribute of many": "{{ ['']|map(attribute='__class__')|list }}",
    "globals of a function": "{{ lipsum.__globals__['os'].system('touch {canary}') }}",
    "globals of a class": "{{ cycler.__init__.__globals__.os.system('touch {canary}') }}",
    "globals of a helper": "{{ raise_exception.__globals__['__builtins__']['open']('{canary}', 'w') }}",
    "the template itself": "{{ self._TemplateReference__context.environment }}",
    "a namespace": "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n.__init__.__globals__ }}",
    "another file": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}{{ os.system('touch {canary}') }}",
    "code of a message": "{{ messages[0]['content'].__class__.__base__.__subclasses__() }}",
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A second for each text: five of them use all of it."""
    usual, template_rendering.CPU_SECONDS = template_rendering.CPU_SECONDS, 1
    RENDERER.close()
    yield
    template_rendering.CPU_SECONDS = usual
    RENDERER.close()


def encoder(template: str) -> TextEncoder:
    return TextEncoder(byte_level(), TemplateConfig(), chat_template=template, max_length=500)


@pytest.mark.parametrize("what", INSIDE)
def test_a_template_does_not_reach_pythons_inside(tmp_path: Path, what: str) -> None:
    canary = tmp_path / "canary"
    source = INSIDE[what].replace("{canary}", str(canary))
    made = ""
    with suppress(MalformedRow):
        made = encoder(source + "{{ messages[-1]['content'] }}").render(Example("a", messages=TALK)).text
    assert not any(word in made for word in ("class", "object", "environment", "root:", "function"))
    assert not canary.exists()


ENDLESS = {
    "a loop in a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that speaks": "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "times": "{{ 'a' * 10 ** 11 }}",
    "doubled": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "wide": "{{ 'a'.center(10 ** 11) }}",
    "formatted": "{{ '%099999999999d' % 1 }}",
    "replaced": "{{ ('a' * 99999)|replace('a', 'a' * 99999) }}",
    "lorem": "{{ lipsum(n=9999999) }}",
    "indented": "{{ 'a'|indent(10 ** 10, true) }}",
    "a text that is too long": "{{ 'a' * 40000000 }}",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_template_ends_and_stays_small(what: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidQuery, match="The chat template refuses these messages") as caught:
        encoder(ENDLESS[what]).encode_query(messages=TALK)
    assert time.monotonic() - began < 4 * template_rendering.CPU_SECONDS + 20  # of a busy machine
    assert len(caught.value.detail) < 700 and caught.value.remedy


def test_after_each_of_them_the_next_text_is_made() -> None:
    good = encoder(CHATML)
    before = good.render_query(messages=TALK).text
    for what in ("a loop in a loop", "times"):
        with pytest.raises(InvalidQuery):
            encoder(ENDLESS[what]).encode_query(messages=TALK)
        assert good.render_query(messages=TALK).text == before
    assert RENDERER._process is not None
    RENDERER._process.kill()
    RENDERER._process.wait()
    assert good.render_query(messages=TALK).text == before


def test_the_process_has_no_secret_and_ends_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_SECRET", "s" * 40)
    renderer = TemplateRenderer()
    assert renderer.render("{{ messages[0].a }}", [{"a": "b"}], {}) == "b"
    process = renderer._process
    assert process is not None
    assert b"WHENCE_SECRET" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert b"Max file size             0" in Path(f"/proc/{process.pid}/limits").read_bytes()
    assert process.stdin is not None
    process.stdin.close()  # all that is left when an owner was killed
    assert process.wait(20) == 0


def test_the_text_is_what_transformers_makes_of_it() -> None:
    """{% generation %}, loop controls, tojson, the special tokens: the same function, in another process."""
    tokenizer = byte_level()
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{% generation %}"
        "{{ m | tojson }}{% endgeneration %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    turns = [{"role": m.role, "content": m.content + " é😀<>&\n"} for m in TALK]
    expected = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True)
    variables = tokenizer.special_tokens_map
    assert RENDERER.render(template, turns, variables, add_generation_prompt=True) == expected
