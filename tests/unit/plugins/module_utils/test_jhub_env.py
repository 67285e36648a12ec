"""jhub.env: what each name becomes, and everything that can be wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils.jhub_env import AUTH_MODES, HIDDEN, NAMES, meaning, read

REPOSITORY = Path(__file__).resolve().parents[4]
EXAMPLE = Path(__file__).with_name("jhub.env.example").read_text()
UNBUILT = ["USE_GPU_OPERATOR", "ENABLE_IB", "ENABLE_IDLE_CULLER"]
NGINX = "NGINX_PROXY_SERVER_NAME=h.example.com\nNGINX_PROXY_CERT_FILE=/c\nNGINX_PROXY_KEY_FILE=/k\n"
GITHUB = "GITHUB_CLIENT_ID=i\nGITHUB_CLIENT_SECRET=s\nGITHUB_CALLBACK_URL=https://h/hub/oauth_callback\n"


def variables(text: str) -> dict:
    """Variables of a file that is right."""
    settings = read(text)
    assert settings.problems() == []
    return settings.variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("AUTH_MODE=native", {"jupyterhub_auth_mode": "native", "jupyterhub_native_approval": "auto"}),
        ("ADMIN_USERS_CSV='a, b,,a'", {"jupyterhub_admin_users": ["a", "b"]}),
        ("ADMIN_USERS_CSV=", {}),
        ("SINGLEUSER_IMAGE=me/nb:24.10", {"jupyterhub_singleuser_image": "me/nb:24.10"}),
        ("PVC_SIZE=128Gi", {"jupyterhub_pvc_size": "128Gi"}),
        ("ENABLE_NGINX_PROXY=false", {"nginx_enabled": False}),
        (f"ENABLE_NGINX_PROXY=FALSE\n{NGINX}", {"nginx_enabled": False}),
        (
            f"{NGINX}ENABLE_NGINX_PROXY=yes",
            {
                "nginx_enabled": True,
                "nginx_server_name": "h.example.com",
                "nginx_certificate_file": "/c",
                "nginx_certificate_key_file": "/k",
            },
        ),
        (
            "SHARED_STORAGE_ENABLED=true SHARED_STORAGE_PATH='/mnt/my share'",
            {"jupyterhub_shared_storage_enabled": True, "gpuhub_shared_storage_path": "/mnt/my share"},
        ),
        ("SHARED_STORAGE_ENABLED=false SHARED_STORAGE_PATH=/mnt", {"jupyterhub_shared_storage_enabled": False}),
        ("ENABLE_IB=false IB_RESOURCE_COUNT=some", {}),
        ("USE_GPU_OPERATOR=0", {}),
        ("ENABLE_USAGE_LIMIT_ENFORCER=false USAGE_PORTAL_URL=x", {"usage_portal_enabled": False}),
        (
            "ENABLE_USAGE_LIMIT_ENFORCER=true\nUSAGE_PORTAL_URL=http://p:29781\nUSAGE_PORTAL_TOKEN=hunter2",
            {
                "usage_portal_enabled": True,
                "usage_portal_url": "http://p:29781",
                "usage_portal_token": "hunter2",
            },
        ),
    ],
)
def test_variables(text, expected):
    assert variables(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("\nPVC_SIZ=1Gi", 2, "PVC_SIZ is no name of jhub.env; did you mean PVC_SIZE?"),
        ("HTTP_PROXY=x", 1, "HTTP_PROXY is no name of jhub.env"),
        ("PVC_SIZE=1Gi\nPVC_SIZE=1Gi", 2, "PVC_SIZE is set again; line 1 has set it"),
        ("PVC_SIZE=$(id)", 1, "PVC_SIZE: '$' would be expanded"),
        ("AUTH_MODE=ldap", 1, "AUTH_MODE must be one of native, github, azuread, ubilink"),
        ("ADMIN_USERS_CSV=../../x", 1, "ADMIN_USERS_CSV must name users; not '../../x'"),
        ("ADMIN_USERS_CSV=,", 1, "ADMIN_USERS_CSV must name at least one"),
        ("SINGLEUSER_IMAGE=me/nb", 1, "SINGLEUSER_IMAGE must be an image with a tag"),
        ("SINGLEUSER_IMAGE=Me/nb:1", 1, "SINGLEUSER_IMAGE must be the name of an image"),
        ("USE_GPU_OPERATOR=ture", 1, "USE_GPU_OPERATOR must be true or false"),
        ("PVC_SIZE=128", 1, "PVC_SIZE must be an amount"),
        ("PVC_SIZE=128GB", 1, "PVC_SIZE must be an amount"),
        (f"AUTH_MODE=github\n{GITHUB.replace('https:', 'ftp:')}", 4, "GITHUB_CALLBACK_URL must be an address"),
        ("AUTH_MODE=github\n" + GITHUB.replace("=s", "=' s'"), 3, "GITHUB_CLIENT_SECRET must be one line"),
        ("AUTH_MODE=github\nGITHUB_CLIENT_SECRET=s", 1, "AUTH_MODE is github, but GITHUB_CLIENT_ID is not set"),
        ("AUTH_MODE=azuread", 1, "AUTH_MODE is azuread, but AZUREAD_TENANT_ID is not set"),
        ("AUTH_MODE=ubilink", 1, "AUTH_MODE is ubilink, but UBILINK_LOGIN_URL is not set"),
        ("ENABLE_NGINX_PROXY=true", 1, "ENABLE_NGINX_PROXY is true, but NGINX_PROXY_SERVER_NAME is not set"),
        ("ENABLE_NGINX_PROXY=true", 1, "ENABLE_NGINX_PROXY is true, but NGINX_PROXY_CERT_FILE is not set"),
        ("ENABLE_NGINX_PROXY=true", 1, "ENABLE_NGINX_PROXY is true, but NGINX_PROXY_KEY_FILE is not set"),
        (f"ENABLE_NGINX_PROXY=true\n{NGINX.replace('/c', 'c')}", 3, "NGINX_PROXY_CERT_FILE must be an absolute path"),
        (f"ENABLE_NGINX_PROXY=true\n{NGINX.replace('h.', 'h_x.')}", 2, "NGINX_PROXY_SERVER_NAME must be a host name"),
        ("ENABLE_USAGE_LIMIT_ENFORCER=true", 1, "ENABLE_USAGE_LIMIT_ENFORCER is true, but USAGE_PORTAL_URL is not"),
        (
            "ENABLE_USAGE_LIMIT_ENFORCER=true USAGE_PORTAL_TOKEN=t",
            1,
            "ENABLE_USAGE_LIMIT_ENFORCER is true, but USAGE_PORTAL_URL is not",
        ),
        ("ENABLE_USAGE_LIMIT_ENFORCER=true USAGE_PORTAL_URL=p:29781", 1, "USAGE_PORTAL_URL must be an address"),
        ("ENABLE_USAGE_LIMIT_ENFORCER=true USAGE_PORTAL_TOKEN=' t'", 1, "USAGE_PORTAL_TOKEN must be one line"),
        ("USAGE_PORTAL_URL=http://p", 1, "USAGE_PORTAL_URL has an effect with ENABLE_USAGE_LIMIT_ENFORCER=true only"),
        ("USAGE_PORTAL_TOKEN=t", 1, "USAGE_PORTAL_TOKEN has an effect with ENABLE_USAGE_LIMIT_ENFORCER=true only"),
        ("SHARED_STORAGE_ENABLED=true", 1, "SHARED_STORAGE_ENABLED is true, but SHARED_STORAGE_PATH is not set"),
        ("SHARED_STORAGE_ENABLED=true SHARED_STORAGE_PATH=", 1, "SHARED_STORAGE_ENABLED is true, but"),
        ("SHARED_STORAGE_ENABLED=true SHARED_STORAGE_PATH=/a/../b", 1, "SHARED_STORAGE_PATH must be a path without"),
        ("ENABLE_IB=true", 1, "ENABLE_IB is true, but IB_RESOURCE_NAME is not set"),
        ("ENABLE_IB=true IB_RESOURCE_NAME=rdma", 1, "IB_RESOURCE_NAME must be a resource"),
        ("ENABLE_IB=true IB_RESOURCE_NAME=rdma/x IB_RESOURCE_COUNT=0", 1, "IB_RESOURCE_COUNT must be a whole number"),
        (
            "IB_RESOURCE_COUNT=1",
            1,
            "IB_RESOURCE_COUNT has an effect with ENABLE_IB=true only, and ENABLE_IB is not set",
        ),
        ("IDLE_TIMEOUT=60", 1, "IDLE_TIMEOUT has an effect with ENABLE_IDLE_CULLER=true only"),
        ("ENABLE_IDLE_CULLER=true IDLE_TIMEOUT=1h", 1, "IDLE_TIMEOUT must be a whole number"),
    ],
)
def test_faults(text, line, says):
    assert any(fault.line == line and fault.text.startswith(says) for fault in read(text).faults), read(text).faults


def test_faults_are_listed_all_at_once_by_line():
    text = "ENABLE_NGINX_PROXY=true\nPVC_SIZ=1\nPVC_SIZE=1\nif\nPVC_SIZE=1Gi\nUSE_GPU_OPERATOR=true\n"
    assert [problem.partition(":")[0] for problem in read(text).problems()] == [
        *["line 1"] * 3,  # server name, certificate and key
        *["line 2", "line 3", "line 4", "line 5"],
        "asks for what does not exist yet",
    ]


def test_a_name_that_could_not_be_read_is_not_missing():
    (problem,) = read('SHARED_STORAGE_ENABLED=true\nSHARED_STORAGE_PATH="$HOME"').problems()
    assert problem.startswith("line 2: SHARED_STORAGE_PATH: '$'")


def test_a_switch_that_could_not_be_read_says_nothing_about_what_hangs_on_it():
    (problem,) = read(f"ENABLE_NGINX_PROXY=maybe\n{NGINX}").problems()
    assert problem == "line 1: ENABLE_NGINX_PROXY must be true or false"


def test_no_secret_is_in_a_fault():
    text = "AUTH_MODE=github\nAZUREAD_CLIENT_SECRET=hunter2\n" + GITHUB.replace("=s", "='hunter2 '")
    assert read(text).faults
    assert "hunter2" not in str([read(text).problems(), read(text).without_effect()])


def test_no_secret_is_shown():
    text = "ENABLE_USAGE_LIMIT_ENFORCER=true\nUSAGE_PORTAL_URL=http://p:29781\nUSAGE_PORTAL_TOKEN=hunter2"
    shown = {"usage_portal_enabled": True, "usage_portal_url": "http://p:29781", "usage_portal_token": HIDDEN}
    assert read(text).shown() == shown
    assert {name for name, entry in NAMES.items() if entry.secret} == {
        name for name in NAMES if name.endswith(("_SECRET", "_TOKEN"))
    }


def test_the_example_stops_for_what_is_switched_on_and_does_not_exist():
    settings = read(EXAMPLE)
    assert settings.faults == []
    assert list(settings.unbuilt) == UNBUILT
    assert settings.problems() == [
        "asks for what does not exist yet: USE_GPU_OPERATOR (GPU Operator, line 5), ENABLE_IB (InfiniBand, line 6), "
        "ENABLE_IDLE_CULLER (stopping idle servers, line 27). "
        f"To go on without: gpuhub_env_ignore: [{', '.join(UNBUILT)}]"
    ]


def test_the_example_without_what_does_not_exist():
    settings = read(EXAMPLE, UNBUILT)
    assert settings.problems() == []
    assert settings.variables == {
        "gpuhub_shared_storage_path": "/your/cephfs/path",
        "jupyterhub_admin_users": ["admin1", "admin2"],
        "jupyterhub_auth_mode": "native",
        "jupyterhub_native_approval": "auto",
        "jupyterhub_pvc_size": "128Gi",
        "jupyterhub_shared_storage_enabled": True,
        "jupyterhub_singleuser_image": "myorg/pytorch-jhub:24.10",
        "nginx_certificate_file": "/path/to/cert.crt",
        "nginx_certificate_key_file": "/path/to/cert.key",
        "nginx_enabled": True,
        "nginx_server_name": "jhub.example.com",
        "usage_portal_enabled": True,
        "usage_portal_url": "http://your-portal:29781",
    }
    assert settings.sources.keys() == settings.variables.keys()
    assert settings.unused["GITHUB_CLIENT_ID"] == "AUTH_MODE is native"
    assert settings.unused["IB_RESOURCE_NAME"] == "ENABLE_IB is ignored"


def test_the_example_has_every_name():
    example = {line.split("=")[0].removeprefix("export ") for line in EXAMPLE.splitlines()[1:]}
    assert example | {"USAGE_PORTAL_TOKEN"} == NAMES.keys()


@pytest.mark.parametrize("mode", AUTH_MODES[1:])
def test_logins_that_do_not_exist_stop(mode):
    settings = read(EXAMPLE.replace("AUTH_MODE=native", f"AUTH_MODE={mode}"), UNBUILT)
    assert settings.faults == []
    assert list(settings.unbuilt) == ["AUTH_MODE"]
    assert f"[{', '.join(sorted(UNBUILT))}, AUTH_MODE]" in settings.problems()[0]
    assert "jupyterhub_native_approval" not in settings.variables


@pytest.mark.parametrize(
    ("text", "ignore"),
    [
        ("ENABLE_IB=true\nIB_RESOURCE_COUNT=x", ["ENABLE_IB"]),
        ("ENABLE_IB=perhaps", ["ENABLE_IB"]),
        ("OUR_OWN=1\nOUR_OWN=$x", ["OUR_OWN"]),
        ("AUTH_MODE=github", ["AUTH_MODE"]),
        ("", ["ENABLE_IB"]),
    ],
)
def test_an_ignored_name_counts_as_not_written(text, ignore):
    settings = read(text, ignore)
    assert [problem for problem in settings.problems() if "'$'" not in problem] == []
    assert settings.variables == {}


def test_an_ignored_name_that_nobody_knows_is_a_fault():
    assert read("", ["ENABLE_IBB"]).problems() == [
        "gpuhub_env_ignore has ENABLE_IBB, which is no name of jhub.env; did you mean ENABLE_IB?"
    ]


def test_names_without_effect_are_named_with_the_reason():
    assert read("ENABLE_IB=false\nIB_RESOURCE_NAME=x\nIB_RESOURCE_COUNT=1", ["PVC_SIZE"]).without_effect() == [
        "PVC_SIZE (gpuhub_env_ignore has them)",
        "IB_RESOURCE_NAME, IB_RESOURCE_COUNT (ENABLE_IB is false)",
    ]


def test_every_variable_is_one_of_a_role_or_a_shared_one():
    known = dict(yaml.safe_load((REPOSITORY / "vars" / "settings.yml").read_text())["shared"])
    for path in REPOSITORY.glob("roles/*/meta/argument_specs.yml"):
        known |= yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {})
    assert {entry.variable for entry in NAMES.values() if entry.variable} <= known.keys()


def test_every_name_says_what_it_means():
    for name, entry in NAMES.items():
        assert entry.about.endswith("."), name
        assert meaning(name), name
