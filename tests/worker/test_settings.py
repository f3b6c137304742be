"""Settings: flags precede variables, which precede defaults; every error names its flag or variable."""

import contextlib
import io
from pathlib import Path

import pytest

from diffusion_worker.settings import PREFIX, SCHEMA, Settings, read_settings, refuse_foreign_flags
from twolane.process.errors import ConfigurationError

NEEDED = ["--checkpoint", "some/folder"]


def test_everything_but_the_checkpoint_has_a_default() -> None:
    """The defaults are loopback, port 8001, eight requests together."""
    settings = read_settings(NEEDED, {})
    assert (settings.host, settings.port, settings.max_num_seqs) == ("127.0.0.1", 8001, 8)
    assert settings.keys_file is None


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default() -> None:
    """Flags precede variables, which precede defaults."""
    environment = {f"{PREFIX}PORT": "9001", f"{PREFIX}MAX_WAITING": "3", "PORT": "1"}
    settings = read_settings([*NEEDED, "--port", "9002"], environment)
    assert (settings.port, settings.max_waiting) == (9002, 3)


def test_the_checkpoint_may_come_from_the_environment() -> None:
    """A container needs no flags."""
    assert read_settings([], {f"{PREFIX}CHECKPOINT": "x"}).checkpoint == "x"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--checkpoint"),
        ([*NEEDED, "--port", "http"], "--port: 'http'"),
        ([*NEEDED, "--port", "70000"], "--port: 70000"),
        ([*NEEDED, "--max-num-seqs", "0"], "--max-num-seqs: 0"),
        ([*NEEDED, "--dtype", "int3"], "--dtype: 'int3'"),
        ([*NEEDED, "--device", "tpu"], "--device: 'tpu'"),
        ([*NEEDED, "--device", "cuda:x"], "--device: 'cuda:x'"),
        ([*NEEDED, "--device-map", "anywhere"], "--device-map: 'anywhere'"),
        ([*NEEDED, "--device-map", "{}"], "--device-map: '{}'"),
        ([*NEEDED, "--device-map", '{"": 1.5}'], "--device-map: "),
        ([*NEEDED, "--device-map", "auto", "--device", "cpu"], "--device cpu: cannot be combined with --device-map"),
        ([*NEEDED, "--quantised", "maybe"], "--quantised: 'maybe'"),
        ([*NEEDED, "--compile", "always", "--exact"], "--compile always: cannot be combined with --exact"),
        ([*NEEDED, "--entropy-bound", "low"], "--entropy-bound: 'low' is not a number"),
        ([*NEEDED, "--entropy-bound", "nan"], "--entropy-bound: nan is not between 0 and 1e+06"),
        ([*NEEDED, "--confidence-threshold", "-1"], "--confidence-threshold: -1 is not between 0 and 1e+06"),
        ([*NEEDED, "--drain-s", "soon"], "--drain-s: 'soon'"),
        ([*NEEDED, "--drain-s", "nan"], "--drain-s: nan"),
        ([*NEEDED, "--name", " "], "--name"),
        ([*NEEDED, "--host", "0.0.0.0"], "--host 0.0.0.0"),
        ([*NEEDED, "--host", "::"], "--host ::"),
        ([*NEEDED, "--host", "example.com"], "--host example.com"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(arguments: list[str], named: str) -> None:
    """One line names the flag and the error."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(arguments, {})
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "device_map"), [("auto", "auto"), ('{"": 0, "model.encoder.vision_tower": "cpu"}', None)]
)
def test_a_device_map_is_a_word_or_an_object(text: str, device_map: str | None) -> None:
    """Values are those of transformers."""
    settings = read_settings([*NEEDED, "--device-map", text], {})
    assert settings.device_map == (device_map or {"": 0, "model.encoder.vision_tower": "cpu"})


def test_a_wrong_variable_is_refused_by_its_own_name() -> None:
    """The error names the variable, not the flag, which was not used."""
    with pytest.raises(ConfigurationError, match=f"{PREFIX}PORT: 'tcp://10.0.0.1:80' is not a whole number"):
        read_settings(NEEDED, {f"{PREFIX}PORT": "tcp://10.0.0.1:80"})


def test_a_misspelled_variable_is_refused_with_the_near_one() -> None:
    """It would otherwise be ignored silently."""
    with pytest.raises(
        ConfigurationError, match=f"{PREFIX}MAX_NUM_SEQ: unknown setting; did you mean {PREFIX}MAX_NUM_SEQS"
    ):
        read_settings(NEEDED, {f"{PREFIX}MAX_NUM_SEQ": "4"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    """Every spelling of a loopback address."""
    assert read_settings([*NEEDED, "--host", host], {}).host == host


def test_another_address_is_allowed_with_a_keys_file() -> None:
    """A keys file restricts access."""
    settings = read_settings([*NEEDED, "--host", "0.0.0.0", "--keys-file", "keys"], {})
    assert settings.keys_file == Path("keys")


@pytest.mark.parametrize(
    ("checkpoint", "name", "model"),
    [
        ("checkpoints/twolane-tiny", None, "twolane-tiny"),
        ("checkpoints/twolane-tiny/", None, "twolane-tiny"),
        ("google/some-net", None, "some-net"),
        ("checkpoints/twolane-tiny", "mine", "mine"),
    ],
)
def test_the_model_id_is_the_name_or_the_last_part_of_the_place(checkpoint: str, name: str | None, model: str) -> None:
    """A worker serves its checkpoint's name."""
    assert Settings(checkpoint=checkpoint, name=name).model == model


def test_help_lists_every_setting_with_its_variable() -> None:
    """One list for flags and environment."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), pytest.raises(SystemExit) as left:
        read_settings(["--help"], {})
    assert left.value.code == 0
    for name in Settings.__dataclass_fields__:
        assert PREFIX + name.upper() in page.getvalue()


def test_a_switch_takes_no_value_on_the_command_line_and_one_in_the_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The flag takes precedence, in either direction."""
    assert not read_settings(NEEDED, {}).exact
    assert read_settings([*NEEDED, "--exact"], {}).exact
    assert not read_settings([*NEEDED, "--no-exact"], {f"{PREFIX}EXACT": "true"}).exact
    assert read_settings(NEEDED, {f"{PREFIX}EXACT": "1"}).exact
    with pytest.raises(SystemExit, match="2"):
        read_settings([*NEEDED, "--exact", "false"], {})
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--max-num", "3"], ["--port"], ["--frobnicate"]])
def test_a_flag_that_is_not_one_of_ours_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Abbreviations are none."""
    with pytest.raises(SystemExit, match="2"):
        read_settings([*NEEDED, *arguments], {})
    told = capsys.readouterr().err
    assert arguments[0] in told
    assert told.count("\n") == 1


def test_an_unknown_variable_of_ours_is_refused() -> None:
    """The prefix is used for nothing else, except by Kubernetes for a service of that name."""
    with pytest.raises(ConfigurationError, match=f"{PREFIX}COLOUR: unknown setting"):
        read_settings(NEEDED, {f"{PREFIX}COLOUR": "blue"})
    assert read_settings(NEEDED, {f"{PREFIX}SERVICE_HOST": "10.0.0.1", f"{PREFIX}PORT_8001_TCP": "x"})


def test_no_setting_is_retired_that_is_still_in_use() -> None:
    known = {SCHEMA.variable(name) for name in Settings.__dataclass_fields__}
    assert not set(SCHEMA.retired) & known
    assert set(SCHEMA.retired.values()) <= known


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--cold"], "--cold requires --admin-port"),
        (["--admin-port", "0", "--admin-host", "0.0.0.0"], "--admin-host 0.0.0.0"),
        (["--admin-port", "70000"], "--admin-port: 70000"),
        (["--max-prefill-tokens", "0"], "--max-prefill-tokens: 0"),
        (["--max-context", "-1"], "--max-context: -1"),
        (["--prefix-slots", "few"], "--prefix-slots: 'few'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(arguments: list[str], named: str) -> None:
    """A cold worker without an admin port, and an admin port on a public address without keys."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings([*NEEDED, *arguments], {})
    assert named in str(caught.value)


def test_by_default_there_is_no_admin_port_and_weights_are_loaded_at_once() -> None:
    """The prefix cache is enabled by default."""
    settings = read_settings(NEEDED, {})
    assert (settings.admin_port, settings.cold, settings.exact, settings.prefix_slots) == (None, False, False, 8)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--tensor-parallel-size 2", "--tensor-parallel-size: a worker runs on one device: start one worker per card"),
        ("--tensor_parallel_size=2", "--tensor_parallel_size: a worker runs on one device"),
        ("-tp 2", "-tp: a worker runs on one device"),
        ("--pipeline-parallel-size 2", "--pipeline-parallel-size: a worker runs on one device"),
        ("--data-parallel-size=8", "--data-parallel-size: a worker runs on one device"),
        ("--enable-expert-parallel", "--enable-expert-parallel: a worker runs on one device"),
        ("--enable-lora", "--enable-lora: LoRA adapters are not supported: merge the adapter"),
        ("--lora-modules sql=/adapters/sql", "--lora-modules: LoRA adapters are not supported"),
        ("--max-lora-rank 64", "--max-lora-rank: LoRA adapters are not supported"),
        ("--limit-mm-per-prompt {}", "--limit-mm-per-prompt: images and other media are not supported"),
        ("--mm-processor-kwargs {}", "--mm-processor-kwargs: images and other media are not supported"),
        ("--allowed-local-media-path /", "--allowed-local-media-path: images and other media are not supported"),
    ],
)
def test_what_the_worker_does_not_do_is_refused_by_the_name_of_its_flag(line: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings([*NEEDED, *line.split()], {})
    assert str(refused.value).startswith(says)


def test_none_of_the_workers_own_flags_is_refused_as_a_foreign_one() -> None:
    refuse_foreign_flags([flag.strip("`") for flag, *_ in SCHEMA.rows()], known=())
