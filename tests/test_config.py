"""The configuration: sources in their order, every problem in one message, secrets never shown."""

import json
import os
from pathlib import Path

import jsonschema
import pytest

from streamlearn.config.load import duration_s, explain, load, rfc3339_ms, schema, template
from streamlearn.config.schema import EventSection
from streamlearn.errors import ConfigError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)


def write(text: str, name: str = "streamlearn.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def refusal(text: str, **flags: object) -> str:
    with pytest.raises(ConfigError) as refused:
        load(write(text), flags)
    return str(refused.value)


def test_defaults_resolve_topics_from_the_name() -> None:
    config = load(None, {"topics.input": ["events"], "app.name": "shuttle"})
    assert config.topics.input == ("events",)
    assert config.topics.predictions == "shuttle.predictions"
    assert config.log.backend == "kafka"
    names = config.names()
    assert (names.app, names.inputs) == ("shuttle", ("events",))
    assert names.roles == {
        "predictions": "shuttle.predictions",
        "dlq": "shuttle.dlq",
        "scores": "shuttle.scores",
        "alerts": "shuttle.alerts",
        "control": "shuttle.control",
        "journal": "shuttle.journal",
        "checkpoints": "shuttle.checkpoints",
    }


def test_a_config_cannot_be_changed() -> None:
    config = load(None, {"topics.input": ["events"]})
    with pytest.raises(ValueError, match="frozen"):
        config.app.name = "other"


def test_flag_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[log]\nbootstrap_servers = "file:1"\n[topics]\ninput = "a"\n')

    def servers(**flags: object) -> str:
        return load(
            None, {key.replace("__", "."): value for key, value in flags.items()}
        ).log.bootstrap_servers

    assert servers() == "file:1"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "alias:2")
    assert servers() == "alias:2"
    monkeypatch.setenv("STREAMLEARN_LOG__BOOTSTRAP_SERVERS", "env:3")
    assert servers() == "env:3"
    assert servers(log__bootstrap_servers="flag:4") == "flag:4"


def test_pyproject_is_read_when_there_is_no_file_of_our_own() -> None:
    write('[tool.streamlearn.topics]\ninput = "a"\n[tool.streamlearn.app]\nname = "py"\n', "pyproject.toml")
    assert load(None, {}).app.name == "py"
    write('[topics]\ninput = "b"\n')
    assert load(None, {}).app.name == "streamlearn"


def test_environment_reaches_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_TOPICS__INPUT", "a, b")
    monkeypatch.setenv("STREAMLEARN_TRANSACTION__MAX_RECORDS", "7")
    monkeypatch.setenv("STREAMLEARN_APP__PORTABLE_MATH", "true")
    monkeypatch.setenv("STREAMLEARN_LOG__OPTIONS", '{"security.protocol": "SSL"}')
    monkeypatch.setenv("STREAMLEARN_MODEL__ARGS", '{"seed": 1}')
    monkeypatch.setenv("STREAMLEARN_SERVICE_HOST", "set by Kubernetes, and none of our business")
    config = load(None, {})
    assert config.topics.input == ("a", "b")
    assert config.transaction.max_records == 7
    assert config.app.portable_math is True
    assert config.log.options == {"security.protocol": "SSL"}
    assert config.model.args == {"seed": 1}


def test_unknown_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_LOG__BOOTSTRAP_SERVER", "x:1")
    with pytest.raises(ConfigError, match=r"env STREAMLEARN_LOG__BOOTSTRAP_SERVER.*log\.bootstrap_servers"):
        load(None, {"topics.input": ["a"]})


@pytest.mark.parametrize(
    ("flags", "backend"),
    [
        ({}, "kafka"),
        ({"log.path": "x.db"}, "embedded"),
        ({"log.backend": "embedded"}, "embedded"),
        ({"log.bootstrap_servers": "h:1"}, "kafka"),
    ],
)
def test_what_is_given_chooses_the_backend(flags: dict[str, object], backend: str) -> None:
    assert load(None, {"topics.input": ["a"], **flags}).log.backend == backend


def test_flags_choose_the_backend_against_the_file() -> None:
    write('[log]\nbackend = "kafka"\n[topics]\ninput = "a"\n')
    assert load(None, {"log.path": "x.db"}).log.backend == "embedded"
    write('[log]\nbackend = "embedded"\n[topics]\ninput = "a"\n')
    assert load(None, {"log.bootstrap_servers": "h:1"}).log.backend == "kafka"
    write('[log]\npath = "x.db"\n[topics]\ninput = "a"\n')
    assert load(None, {}).log.backend == "embedded"


def test_options_merge_one_by_one_and_are_text() -> None:
    write(
        '[topics]\ninput = "a"\n[log.options]\n"security.protocol" = "SSL"\nfetch.max.bytes = 5\nx = true\n'
    )
    options = load(None, {"log.options.x": "no"}).log.options
    assert options == {"security.protocol": "SSL", "fetch.max.bytes": "5", "x": "no"}


def test_references_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD", "pod-1")
    Path("secret").write_text("hunter2\n")
    write('[topics]\ninput = "a"\n[app]\nreplica = "${env:POD}"\n[checkpoint]\nkey = "${file:secret}"\n')
    config = load(None, {})
    assert (config.app.replica, config.checkpoint.key) == ("pod-1", "hunter2")


def test_all_problems_come_in_one_message_with_key_value_source_and_what_is_right() -> None:
    message = refusal(
        """
[app]
name = "Shuttle"
nme = 3
[topics]
input = "a"
[transaction]
max_records = 0
[event]
id = "meta..id"
format = "xml"
[model]
per = "key"
[labels]
join = "name"
[checkpoint]
key = "${env:NOT_THERE}"
""",
        **{"log.retention": "soon"},
    )
    expected = [
        ('app.name = "Shuttle" (streamlearn.toml:3)', "1 to 64 of a-z 0-9 . _ -"),
        ("app.nme = 3 (streamlearn.toml:4)", "did you mean app.name?"),
        ("transaction.max_records = 0 (streamlearn.toml:8)", "1 to 100000 records"),
        ('event.id = "meta..id" (streamlearn.toml:10)', "is not a path"),
        ('event.format = "xml" (streamlearn.toml:11)', "json"),
        ('model.per = "key" (streamlearn.toml:13)', "not in this version yet"),
        ('labels.join = "name" (streamlearn.toml:15)', "id | group | interval"),
        ("checkpoint.key = *** (streamlearn.toml:17)", "no variable NOT_THERE"),
        ('log.retention = "soon" (flag log.retention)', "7d"),
    ]
    lines = message.splitlines()[1:]
    assert len(lines) == len(expected), message
    for start, right in expected:
        assert any(line.strip().startswith(start) and right in line for line in lines), (start, message)


def event(text: str) -> EventSection:
    return load(write('[topics]\ninput = "a"\n[event]\n' + text), {}).event


def test_the_mapping_is_written_as_toml_writes_it() -> None:
    found = event(
        'features = ["temp", "meta.rpm"]\nwhere = "type == \'reading\'"\ncarry = "site, tags.host"\n'
        "duplicates = 1000\n[event.types]\ntemp = 'float'\nmeta.rpm = 'int'\n"
    )
    assert (found.features, found.carry) == (("temp", "meta.rpm"), ("site", "tags.host"))
    assert found.types == {"temp": "float", "meta.rpm": "int"}


def test_a_preset_is_a_set_of_other_defaults() -> None:
    found = event('preset = "debezium"\nlabel = "state"\n')
    assert (found.features, found.time, found.label, found.id) == ("*", "__source.ts_ms", "state", "id")
    assert event('preset = "telegraf"\nfeatures = "tags"\n').features == "tags"
    assert event('format = "csv"\ncolumns = ["id", "temp"]\n').features == "*"


def test_environment_reaches_the_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_EVENT__FEATURES", '["a", "b.c"]')
    monkeypatch.setenv("STREAMLEARN_EVENT__TYPES", '{"b.c": "int"}')
    monkeypatch.setenv("STREAMLEARN_EVENT__CARRY", "site")
    found = load(None, {"topics.input": ["a"]}).event
    assert (found.features, found.types, found.carry) == (("a", "b.c"), {"b.c": "int"}, ("site",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'where = "type = 1"',
            "event.where = \"type = 1\" (streamlearn.toml:4): '=' is not understood; equality",
        ),
        ('where = "f(x) == 1"', "functions are not known here at character 1"),
        ('types = {rpm = "double"}', "'float', 'int', 'str' or 'bool'"),
        ('time = "a..b"', "is not a path"),
        ('features = ["a", "a"]', "names a path twice"),
        ('features = ["*", "a"]', "it stands alone"),
        ("features = []", "names nothing"),
        ('format = "csv"', 'event.format = "csv" and event.columns = [...] need each other'),
        ('columns = ["a"]', "need each other"),
        ('format = "csv"\ncolumns = ["a", "a"]', "names a column twice"),
        ('format = "csv"\ncolumns = ["a"]\nfeatures = "features"', 'must be "*" or a list of columns'),
        ('format = "avro"', "needs event.schema_file or event.schema_registry"),
        ('format = "avro-bare"\nschema_registry = "http://r:1"', "needs event.schema_file"),
        ('schema_registry = "r:8081"', "is not an address like"),
        ('schema_file = "a"\nschema_registry = "http://r:1"', "keep one of them"),
        ("duplicates = -1", "0 to 1000000"),
        ('null = "zero"', "missing"),
        ('preset = "debesium"', "debezium"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_with_what_is_right(text: str, says: str) -> None:
    message = refusal(f'[topics]\ninput = "a"\n[event]\n{text}\n')
    assert says in message
    assert len(message.splitlines()) == 2, message


def test_a_registrys_password_is_never_shown() -> None:
    write('[topics]\ninput = "a"\n[event]\nschema_registry = "http://me:hunter2@r:8081"\n')
    assert "hunter2" not in repr(explain(None, {})) + repr(load(None, {}))
    assert "hunter2" not in refusal('[topics]\ninput="a"\n[event]\nschema_registry = "me:hunter2@r"\n')


def test_the_input_must_be_given_where_it_is_read() -> None:
    with pytest.raises(ConfigError, match=r"topics\.input is not given"):
        load(None, {})
    assert load(None, {}, need_input=False).topics.input == ()


def test_a_topic_cannot_have_two_roles() -> None:
    message = refusal('[topics]\ninput = "a"\npredictions = "a"\n')
    assert "topics.predictions and topics.input are both 'a'" in message


def test_a_broken_or_missing_file_is_named() -> None:
    assert "streamlearn.toml is not TOML" in refusal("[topics\n")
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        load(Path("none.toml"), {})


def test_secrets_are_never_shown() -> None:
    Path("secret").write_text("hunter2")
    write(
        '[log.options]\nsasl.password = "hunter2"\nssl.key.password = "hunter2"\nssl.cafile = "ca"\n'
        '[checkpoint]\nkey = "hunter2"\n[app]\nreplica = "${file:secret}"\n'
    )
    shown = {one.key: one.value for one in explain(None, {})}
    assert shown["log.options.ssl.cafile"] == "ca"
    assert shown["app.replica"] == "***"
    assert "hunter2" not in repr(shown)
    assert "hunter2" not in repr(load(None, {"app.replica": ""}, need_input=False))
    assert "hunter2" not in refusal('[topics]\ninput="a"\n[checkpoint]\nkey = ["hunter2"]\n')


def test_explain_says_where_each_value_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_CHECKPOINT__KEEP", "9")
    write('[app]\nname = "x"\n')
    sources = {one.key: one.source for one in explain(None, {"log.path": "x.db"})}
    assert sources["app.name"] == "streamlearn.toml:2"
    assert sources["checkpoint.keep"] == "env STREAMLEARN_CHECKPOINT__KEEP"
    assert sources["log.path"] == sources["log.backend"] == "flag --db"
    assert sources["transaction.max_ms"] == "default"


def test_the_template_loads_and_changes_nothing_but_the_input() -> None:
    config = load(write(template()), {})
    assert config == load(None, {"topics.input": ["events"]})
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in template().splitlines()[4:]
    )
    assert load(write(uncommented, "all.toml"), {"model.use": "preset:classification"}).topics.input == (
        "events",
    )


def test_the_schema_accepts_what_load_returns() -> None:
    config = load(None, {"topics.input": ["events"]})
    jsonschema.validate(json.loads(config.model_dump_json()), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"transaction": {"max_records": 0}}, schema())


def test_durations_and_times() -> None:
    assert [duration_s(text) for text in ("7d", "1h", "15m", "30s", "500ms")] == [604800, 3600, 900, 30, 0.5]
    assert rfc3339_ms("1970-01-01T00:00:01Z") == 1000
    assert rfc3339_ms("1970-01-01T01:00:00+01:00") == 0
    for text in ("2026-01-01T00:00:00", "yesterday"):
        with pytest.raises(ValueError, match="RFC 3339"):
            rfc3339_ms(text)


@pytest.mark.parametrize(
    ("start", "good"),
    [("latest", True), ("-1h", True), ("2026-01-31T08:00:00Z", True), ("-x", False), ("now", False)],
)
def test_start(start: str, good: bool) -> None:
    if good:
        assert load(None, {"topics.input": ["a"], "topics.start": start}).topics.start == start
    else:
        with pytest.raises(ConfigError, match=r"topics\.start"):
            load(None, {"topics.input": ["a"], "topics.start": start})


def test_a_secret_from_the_environment_is_as_secret_as_one_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PW", "hunter2")
    write(
        '[app]\nname = "${env:PW}"\n[topics]\ninput = "a"\n[model]\nargs = {user = "${env:PW}"}\n'
        '[log.options]\n"sasl.username" = "${env:PW}"\n'
    )
    shown = {setting.key: setting.value for setting in explain(None, {})}
    assert "hunter2" not in str(shown)
    assert {shown["app.name"], shown["topics.journal"], shown["topics.dlq"]} == {"***"}
    assert load(None, {}).topics.journal == "hunter2.journal"
    write('[app]\nname = "${env:PW}"\n[topics]\ninput = ["a", "hunter2.dlq"]\n')
    with pytest.raises(ConfigError) as refused:
        load(None, {})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["passwd", "pwd", "db_pwd", "api_key", "apikey", "Secret", "token", "credentials"]
)
def test_an_unknown_key_that_looks_like_a_secret_is_not_shown(name: str) -> None:
    write(f'[topics]\ninput = "a"\n[log]\n{name} = "hunter2"\nother = {{{name} = "hunter2"}}\n')
    with pytest.raises(ConfigError, match="unknown key") as refused:
        load(None, {})
    assert "hunter2" not in str(refused.value)


def test_a_secret_is_read_from_a_small_regular_file_and_nothing_else() -> None:
    Path("large").write_bytes(b"x" * 70_000)
    os.mkfifo("pipe")
    for name in ("/dev/zero", "pipe", ".", "large"):
        write(f'[topics]\ninput = "a"\n[checkpoint]\nkey = "${{file:{name}}}"\n')
        with pytest.raises(ConfigError, match=r"checkpoint\.key = \*\*\* .* cannot be read"):
            load(None, {})


@pytest.mark.parametrize("name", [".", "..", "-x", ".hidden", "a/b", ""])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    write(f'[topics]\ninput = "a"\n[app]\nname = "{name}"\n')
    with pytest.raises(ConfigError, match=r"app\.name"):
        load(None, {})


@pytest.mark.parametrize("key", ["labels.ttl", "labels.early_ttl", "log.retention"])
def test_a_duration_is_bounded(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = .*\(flag {key}\): is longer than 36500d"):
        load(None, {"topics.input": "a", "topics.labels": "l", key: "9" * 28 + "d"})
