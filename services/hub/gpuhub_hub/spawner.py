"""KubeSpawner with the platform's own name for each user, sizes that are granted, and servers that outlive a reboot."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from aiohttp import ClientError
from gpuhub_core.usernames import slug
from jupyterhub.utils import maybe_future
from kubernetes_asyncio.client.rest import ApiException
from kubespawner import KubeSpawner
from tornado import web
from traitlets import Dict

from . import spawn_form
from .quota import GPU_TYPE_ANNOTATION, RESERVATION_LABEL, Grant, NotGrantedError, Quota
from .texts import ENGLISH, language_of, say
from .witness import Witness

# How soon somebody may try again who was refused because the portal is away.
_RETRY = timedelta(minutes=1)
# Which node a claim's volume was made for, as the scheduler notes it on claims that wait for their first pod.
_NODE_OF_CLAIM = "volume.kubernetes.io/selected-node"
_LONGEST_WHY = 500


class RefusedError(web.HTTPError):
    """A start that is refused; JupyterHub shows `jupyterhub_message`, and its API answers with it."""

    def __init__(self, error: NotGrantedError, language: str) -> None:
        code = error.reason.code
        status = {"away": 503, "no_such_size": 400, "no_size_named": 400}.get(code, 409)
        self.jupyterhub_message = spawn_form.refusal(error, language)
        super().__init__(status, "%s", self.jupyterhub_message)
        if status == 503:
            self.headers = {"Retry-After": str(int(_RETRY.total_seconds()))}


class PodEndedError(Exception):
    """A server's pod ended before it ran; JupyterHub shows `jupyterhub_message`."""

    def __init__(self, pod: Mapping[str, Any], language: str) -> None:
        self.jupyterhub_message = say(
            language, "pod_ended", node=(pod.get("spec") or {}).get("nodeName") or "?", why=why_ended(pod)
        )
        super().__init__(self.jupyterhub_message)


class _Options(Dict):
    """Options of a request; a body of the API that is no object has none.

    JupyterHub keeps any body in its database. A list there fails each time that the server's spawner is made, also
    when the hub starts.
    """

    def validate(self, obj: Any, value: Any) -> Any:
        return super().validate(obj, value if isinstance(value, dict) else {})


class PlatformSpawner(KubeSpawner):
    """KubeSpawner whose servers have a size that was granted (where there are sizes), and whose templates know
    `{user_slug}`; it waits for containers that are started again.

    KubeSpawner's own `{username}` ends in 32 bits of hash where a name is not plain. People choose their names, and
    32 bits are few enough to search for one that is given somebody else's claim.
    """

    user_options = _Options()

    # Of the whole hub; None where there are no sizes, or no portal that wants to know.
    quota: Quota | None = None
    witness: Witness | None = None

    # Whether each home is on the disk of the node where it was first used.
    homes_on_nodes = False

    _grant: Grant | None = None
    _deleted = False
    # A pod of the same name that there was before this start.
    _earlier = ""
    _language = ENGLISH

    @property
    def language(self) -> str:
        """The language of the request that is answered; of a form that is sent JupyterHub does not tell the request."""
        if self.handler is not None:
            self._language = language_of(self.handler.request.headers.get("Accept-Language", ""))
        return self._language

    async def get_options_form(self) -> str:
        """The sizes, with what is free and why one is refused. Never empty: that would start a server at once."""
        if self.quota is None:
            return await super().get_options_form()
        language = self.language
        try:
            return spawn_form.render(await self.quota.view(self.user.name, await self._home_node()), language)
        except NotGrantedError as error:
            return spawn_form.render_refusal(error, language)

    async def _check_options(self, formdata: Mapping[str, Any]) -> dict[str, Any]:
        """Take the size out of a form or query, and nothing else; one that is refused is said on the form."""
        chosen = formdata.get("profile") or [None]
        try:
            return {"profile": await self.quota.check(self.user.name, chosen[0], await self._home_node())}
        except NotGrantedError as error:
            raise RefusedError(error, self.language) from error

    def _options_from_form(self, formdata: Mapping[str, Any]) -> Any:
        return super()._options_from_form(formdata) if self.quota is None else self._check_options(formdata)

    async def load_user_options(self) -> None:
        """Have a size granted and reserved. Every start comes through here, whatever asked for it and with what."""
        if self.quota is None:
            await super().load_user_options()
            return
        await self._start_watching_pods()
        self.quota.adopt(self.pod_reflector.pods.values())
        chosen, home_node = self.user_options.get("profile"), await self._home_node()
        try:
            self._grant = await self.quota.admit(self.user.name, self.name, chosen, home_node)
        except NotGrantedError as error:
            self._count_no_failure()
            raise RefusedError(error, self.language) from error
        self._apply(self._grant)

    async def _home_node(self) -> str:
        """The node that the user's home is bound to; empty if to none, or where that cannot be found out."""
        if not self.homes_on_nodes:
            return ""
        try:
            asked = self.api.read_namespaced_persistent_volume_claim(self.pvc_name, self.namespace)
            claim = await asyncio.wait_for(asked, self.k8s_api_request_timeout)
        except (ApiException, ClientError, OSError, asyncio.TimeoutError) as error:
            # Without a home yet there is no claim. In any other case the scheduler has the last word.
            if getattr(error, "status", None) != 404:
                self.log.warning("Where the home of %s is, is not known: %r", self.user.name, error)
            return ""
        return (claim.metadata.annotations or {}).get(_NODE_OF_CLAIM, "")

    def _apply(self, grant: Grant) -> None:
        """Give the pod what was granted, and mark it as the one that holds it."""
        request = grant.profile.request
        self._apply_overrides(copy.deepcopy(self.quota.overrides(grant)))
        labels, annotations = {RESERVATION_LABEL: grant.label}, {GPU_TYPE_ANNOTATION: request.gpu_type}
        self._apply_overrides({"extra_labels": labels, "extra_annotations": annotations})
        if not request.resources.gpu:
            # Images of CUDA ask for all GPUs by this variable, and some runtimes obey it without a request.
            self._apply_overrides({"environment": {"NVIDIA_VISIBLE_DEVICES": "void"}})

    def _count_no_failure(self) -> None:
        """Keep a refusal out of the failures after which JupyterHub exits: they are of the whole hub, in a row."""
        self.consecutive_failure_limit = 0
        if self.handler is None or self._spawn_future is None:
            return
        settings = self.handler.settings

        def correct(_: Any) -> None:
            settings["failure_count"] = max(settings.get("failure_count", 0) - 1, 0)

        # Runs behind JupyterHub's own callback, which was added first, and nothing runs between both.
        self._spawn_future.add_done_callback(correct)

    async def _start(self) -> Any:
        self._deleted = False
        pod = self._pod()
        self._earlier = pod["metadata"]["uid"] if pod else ""
        url = await super()._start()
        if self._grant is not None:
            self.quota.started(self._grant)
        if self.witness is not None:
            await self.witness.started(self._pod())
        return url

    async def stop(self, now: bool = False) -> None:
        """Delete the pod, and wait until it is gone."""
        pod = self._pod()
        if self.witness is not None:
            # Also of one that did not come so far as to run: it held what it was given.
            await self.witness.started(pod)
        await super().stop(now)
        # One that had ended by itself, or was gone, has held nothing for a while.
        self._deleted = pod is not None and not has_ended(pod)

    async def run_post_stop_hook(self) -> Any:
        """Called whenever a server, or its start, has ended, however it did."""
        if self._grant is not None:
            self.quota.ended(self._grant)
            self._grant = None
        if self.witness is not None:
            await self.witness.gone(self.namespace, self.pod_name, exact=self._deleted)
        return await maybe_future(super().run_post_stop_hook())

    async def _start_reflector(self, kind: str, *arguments: Any, replace: bool = False, **options: Any) -> Any:
        """As KubeSpawner's, but a request that ends, or an API server that is away, leaves no reflector half made.

        KubeSpawner keeps a reflector whose first list was cancelled or failed, and every later start would wait for
        it, or see no pods. A start that is refused cancels one easily: its page asks for the progress.
        """
        previous = self.reflectors.get(self._get_reflector_key(kind))
        loaded = previous.first_load_future if previous else None
        if loaded and loaded.done() and (loaded.cancelled() or loaded.exception()):
            replace = True
        return await asyncio.shield(super()._start_reflector(kind, *arguments, replace=replace, **options))

    async def _start_watching_pods(self, replace: bool = False) -> Any:
        reflector = await super()._start_watching_pods(replace)
        if self.witness is not None:
            await self.witness.compare(self.pod_reflector.pods.values())
        return reflector

    def _pod(self) -> dict[str, Any] | None:
        return self.pod_reflector.pods.get(f"{self.namespace}/{self.pod_name}") if self.pod_reflector else None

    async def poll(self) -> int | None:
        """As KubeSpawner's, but a server has not ended while kubelet is about to start its container again.

        A node that boots reports its containers as terminated for the second or two until it has started them again.
        Asked in that moment, KubeSpawner deletes the pod. One that fails while it is first started is a failure still.
        And a pod that was evicted, or that its node refused, is deleted too, and the log says why it ended.
        """
        pod = self._pod()
        if pod and self.pending != "spawn" and will_restart(pod):
            return None
        if pod and has_ended(pod):
            self.log.warning("The server %s has ended: %s", self._log_name, why_ended(pod))
            if self.delete_stopped_pods and not pod["status"].get("containerStatuses"):
                await self.stop(now=True)
        return await super().poll()

    def is_pod_running(self, pod: Mapping[str, Any] | None) -> bool:
        """As KubeSpawner's, but a start does not wait for a pod that has ended. Raises PodEndedError."""
        if pod and self.pending == "spawn" and has_ended(pod) and pod["metadata"]["uid"] != self._earlier:
            raise PodEndedError(pod, self.language)
        return super().is_pod_running(pod)

    def _expand_user_properties(self, template: str, slug_scheme: str | None = None) -> str:
        # The one place where KubeSpawner expands templates, for names as well as for volumes.
        template = template.replace("{user_slug}", slug(self.user.name))
        return super()._expand_user_properties(template, slug_scheme)


def will_restart(pod: Mapping[str, Any]) -> bool:
    """Whether the notebook's container has ended in a pod that runs on: the phase says that kubelet starts it again."""
    return pod["status"]["phase"] == "Running" and any(
        status["name"] == "notebook" and "terminated" in status["state"]
        for status in pod["status"].get("containerStatuses") or []
    )


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs no more, and never will."""
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def why_ended(pod: Mapping[str, Any]) -> str:
    """What the node says about a pod that has ended, in its own words."""
    status = pod["status"]
    found = [status.get("reason"), status.get("message")]
    for container in status.get("containerStatuses") or []:
        ended = container["state"].get("terminated") or {}
        found += [ended.get("reason"), ended.get("message")]
    return ": ".join(dict.fromkeys(text for text in found if text))[:_LONGEST_WHY] or status["phase"]


def configure(c: Any) -> None:
    """Use this spawner."""
    c.JupyterHub.spawner_class = PlatformSpawner
    # What is chosen is granted where the server starts; without a hook JupyterHub warns of options that nobody reads.
    c.Spawner.apply_user_options = {}
