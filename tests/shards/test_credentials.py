"""What may be kept and shown of a place: which it is, and nothing that opens it."""

import json
import shlex
from pathlib import Path

import pytest
from stream_data import local, read, write_layer

from loopback import Web
from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.settings.recipe import load_recipe, resolved_lines
from vila2cli.shards import open_source, streams
from vila2cli.shards.credentials import command_without_credentials, masked, secrets_in, without_credentials
from vila2cli.shards.places import redacted, tar_stem, typed

SECRET = "hunter2SECRET9876"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://x.org/a/0.tar", "https://x.org/a/0.tar"),
        (f"https://me:{SECRET}@x.org/0.tar", "https://x.org/0.tar"),
        (f"https://{SECRET}@x.org:8443/0.tar", "https://x.org:8443/0.tar"),
        (
            f"https://b.s3.amazonaws.com/0.tar?X-Amz-Date=1&X-Amz-Signature={SECRET}&X-Amz-Credential=A%2FB",
            None,
        ),
        (f"https://storage.googleapis.com/b/0.tar?X-Goog-Signature={SECRET}&GoogleAccessId=a&Expires=9", None),
        (f"https://a.blob.core.windows.net/c/0.tar?sv=2026&st=1&se=2&sr=b&sp=r&sig={SECRET}", None),
        (f"https://x.org/0.tar?token={SECRET}", None),
        (f"https://x.org/0.tar?AWSAccessKeyId=A&Signature={SECRET}&Expires=12", None),
        (f"https://x.org/0.tar?Policy={SECRET}&Key-Pair-Id=K", None),
        (f"https://x.org/0.tar#access_token={SECRET}", None),
        (f"https://x.org/0.tar?shard=3&token={SECRET}", "https://x.org/0.tar?shard=3"),
        (f"HTTPS://me:{SECRET}@x.org/0.tar?sig={SECRET}", "HTTPS://x.org/0.tar"),
        (f"sftp://me:{SECRET}@host/0.tar", "sftp://host/0.tar"),
        ("sftp://me@host/0.tar", "sftp://me@host/0.tar"),
        ("abfs://box@account.dfs.core.windows.net/0.tar", "abfs://box@account.dfs.core.windows.net/0.tar"),
        ("hf://datasets/org/name@main/0.tar", "hf://datasets/org/name@main/0.tar"),
        ("s3://bucket/0.tar?versionId=abc", "s3://bucket/0.tar?versionId=abc"),
        (f"simplecache::https://me:{SECRET}@x.org/0.tar", "simplecache::https://x.org/0.tar"),
        (f"zip://0.tar::https://x.org/0.zip?sig={SECRET}", "zip://0.tar::https://x.org/0.zip"),
        ("https://x.org/0.tar?sig=a/b@c", "https://x.org/0.tar"),
        ("s3://bucket/a#1.tar", "s3://bucket/a#1.tar"),
    ],
)
def test_a_url_is_kept_without_credentials(url: str, kept: str | None) -> None:
    found = without_credentials(url)
    assert found == (kept or url.partition("?")[0].partition("#")[0])
    assert SECRET not in found
    assert without_credentials(found) == redacted(found) == found
    assert SECRET not in f"{typed(url)} {typed(url)!r}"
    assert str(typed(url)) == url


def test_addresses_that_differ_in_a_parameter_are_two() -> None:
    one, other = (without_credentials(f"https://x.org/0.tar?seed={seed}&sig={seed}") for seed in (3, 4))
    assert one != other
    assert one.startswith("https://x.org/0.tar#")
    assert without_credentials("https://x.org/0.tar?seed=3&sig=renewed") == one


@pytest.mark.parametrize(
    "command",
    [
        f"curl -s -H 'Authorization: Bearer {SECRET}' https://x.org/0.tar",
        f"curl -s --header='X-Api-Key: {SECRET}' https://x.org/0.tar",
        f"curl -u me:{SECRET} https://x.org/0.tar",
        f"curl -ume:{SECRET} https://x.org/0.tar",
        f"curl --user me:{SECRET} https://x.org/0.tar",
        f"curl https://me:{SECRET}@x.org/0.tar",
        f"curl 'https://x.org/0.tar?X-Amz-Signature={SECRET}'",
        f"curl -b session={SECRET} https://x.org/0.tar",
        f"TOKEN={SECRET} fetch https://x.org/0.tar",
        f"env TOKEN={SECRET} fetch https://x.org/0.tar",
        f"export TOKEN={SECRET}; fetch https://x.org/0.tar",
        f"sshpass -p {SECRET} ssh host cat /data/0.tar",
        f"sshpass -p{SECRET} ssh host cat /data/0.tar",
        f"wget --password={SECRET} -O - https://x.org/0.tar",
        f"gpg --passphrase {SECRET} -d /data/0.tar",
        f"openssl enc -d -k {SECRET} -in /data/0.tar",
        f"echo {SECRET} | gpg --passphrase-fd 0 -d /data/0.tar",
        f'bash -c "curl -u me:{SECRET} https://x.org/0.tar" # 0.tar',
        f"curl 'unmatched -u me:{SECRET} https://x.org/0.tar",
        f"cat /data/0.tar|gpg --passphrase {SECRET}",
        f"fetch https://x.org/0.tar;echo {SECRET}",
    ],
)
def test_a_command_is_kept_without_its_secrets(command: str) -> None:
    place = typed(f"pipe:{command}")
    kept = redacted(place)
    assert SECRET not in f"{kept} {place} {place!r}"
    assert redacted(kept) == kept
    assert kept.startswith("pipe:")
    renewed = typed(f"pipe:{command.replace(SECRET, 'another-Secret-1234')}")
    assert tar_stem(renewed) == tar_stem(place)


def test_a_plain_command_is_kept_as_it_is() -> None:
    for command in ("cat /data/0.tar", "zcat -f /data/0.tar", "aws s3 cp"):
        assert (command_without_credentials(command) == command) is (command != "aws s3 cp")
    one, other = (command_without_credentials(f"ssh {host} cat /data/0.tar") for host in ("a", "b"))
    assert one != other


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open https://me:{SECRET}@x.org/0.tar?sig={SECRET}: 403",
        f"Authorization: Bearer {SECRET}",
        f"{{'authorization': 'Basic {SECRET}'}}",
        f"api_key={SECRET} is wrong",
        f'{{"password": "{SECRET}"}}',
        f"sk-{SECRET}",
        f"hf_{SECRET}",
        f"AKIA{SECRET}",
        f"base_url = 'bob:{SECRET}@host/v1'",
        f"htt p://bob:{SECRET}@host/v1",
    ],
)
def test_a_message_is_masked(text: str) -> None:
    assert SECRET not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 4096 is more than 2048 tokens",
        "the prompt of 600 tokens does not fit the context of 512",
        "a red star, signed by the author",
        "cannot read data/000000.tar: No such file or directory",
        "image vllm/vllm-openai:v0.8.1@sha256 is gone, since 12:30@noon",
    ],
)
def test_a_message_without_secrets_stays(text: str) -> None:
    assert masked(text) == text


def test_secrets_of_the_environment_are_known() -> None:
    assert secrets_in({"HF_TOKEN": SECRET, "HOME": "/home/somebody", "MY_KEY": "short"}) == [SECRET]


# What layers, manifests and messages hold


def everything(folder: Path) -> str:
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


def test_a_layer_over_signed_urls_goes_on_with_another_signature(
    web: Web, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = f"{web.url}/data/{{000000..000002}}.tar?X-Amz-Signature={SECRET}"
    layer = write_layer(tmp_path / "r1", open_source([signed]))
    assert SECRET not in everything(tmp_path)
    renewed = signed.replace(SECRET, "renewed")
    first = layer / "000001.tar.gz"
    before = first.stat()
    write_layer(layer, open_source([renewed]))
    assert first.stat() == before
    source = open_source([renewed, str(layer)])
    assert len(source.shards) == 3
    assert all("renewed" in str(shard.url) for shard in source.shards)
    assert [len(sample.annotations) for sample in read(source)] == [1] * 12
    assert len(open_source([signed, renewed]).shards) == 3
    upper = write_layer(tmp_path / "r2", source, "ocr")
    assert [len(sample.annotations) for sample in read(open_source([renewed, str(upper)]))] == [2] * 12
    main(["shards", "merge", signed, "--captions", "original", "--out", str(tmp_path / "merged")])
    main(["shards", "stats", f"{web.url}/none/0.tar?token={SECRET}"])
    main(["lineage", str(upper)])
    assert SECRET not in everything(tmp_path)
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert json.dumps(source.places()).count("renewed") == 0


def test_a_layer_over_commands_with_a_token_goes_on_with_another(data: Path, tmp_path: Path) -> None:
    def pipes(token: str) -> str:
        return f"pipe:TOKEN={token} cat {shlex.quote(str(data))}/data/{{000000..000002}}.tar"

    layer = write_layer(tmp_path / "r1", open_source([pipes(SECRET)]))
    assert SECRET not in everything(tmp_path)
    source = open_source([pipes("another-token"), str(layer)])
    assert [len(sample.annotations) for sample in read(source)] == [1] * 12
    with pytest.raises(DataError, match="which a layer cannot make run") as caught:
        open_source([str(layer)])
    assert SECRET not in str(caught.value)
    assert len(local(data)) == 12


def test_a_password_in_a_url_is_used_and_not_shown(web: Web, tmp_path: Path) -> None:
    host = web.url.removeprefix("http://")
    with pytest.raises(DataError) as caught:
        read(open_source([f"http://me:{SECRET}@{host}/none/000009.tar"]))
    assert SECRET not in str(caught.value)


def test_a_resolved_recipe_holds_no_credentials() -> None:
    recipe = load_recipe(
        None,
        [
            f"api.base_url=https://me:{SECRET}@x.org/v1",
            f'data.pretrain=["https://x.org/0.tar?sig={SECRET}", "pipe:curl -u me:{SECRET} https://x.org/1.tar"]',
            f'slurm.setup=["export HF_TOKEN={SECRET}"]',
            f"judges.gpt.api.base_url=https://{SECRET}@x.org/v1",
            "judges.gpt.model=m",
            'prompts={mine = "Say token: something-long"}',
        ],
    )
    lines = "\n".join(resolved_lines(recipe))
    assert SECRET not in lines
    assert 'api.base_url = "https://x.org/v1"' in lines
    assert "Say token: something-long" in lines


@pytest.mark.parametrize("argv", [["recaption", "--model", "m", "--shards", "0.tar", "--dry-run"], ["plan"]])
def test_what_is_set_is_not_shown(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RETRY_WAITS_S", (0.01,))
    url = f"https://me:{SECRET}@x.org"
    main([*argv, "--set", f"api.base_url={url}/v1", "--set", f"data.pretrain={url}/0.tar?sig={SECRET}"])
    main([*argv, "--set", f"api.timeout_s={url}"])
    main([*argv, "--set", f"api.no_such={url}"])
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


def test_job_scripts_hold_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "slurm",
        "emit",
        "round1",
        "--out",
        str(tmp_path),
        "--set",
        f"api.base_url=https://me:{SECRET}@x.org/v1",
    ]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "holds a password or signature, which would be written down with the commands" in said
    assert SECRET not in said
    assert not list(tmp_path.iterdir())
