"""Everything that people read about starting servers, in one table: a further language is a further entry."""

from __future__ import annotations

from collections.abc import Mapping

# Names as in HTML's `lang`.
ENGLISH, TRADITIONAL_CHINESE, SIMPLIFIED_CHINESE = "en", "zh-Hant", "zh-Hans"
# Where Traditional characters are written, and the script's own name.
_TRADITIONAL = {"hant", "tw", "hk", "mo"}

TEXTS: Mapping[str, Mapping[str, str]] = {
    ENGLISH: {
        "legend": "Size of the server",
        "gpu": "GPUs of other types",
        "available": "Can be started now",
        "refused": "Cannot be started now: {reason}",
        "use_cpu_milli": "Cores in use: {used} of {limit}.",
        "use_memory_bytes": "GiB of memory in use: {used} of {limit}.",
        "use_gpu": "GPUs in use: {used} of {limit}.",
        "free": "Free now: {free}.",
        "free_none": "no GPU",
        "free_item": "{count} {gpu_type}",
        "as_of": "The usage portal does not answer. This is what it said at {time}.",
        # By codes of reasons. Those of gpuhub_core (over_limit, budget_used, too_large, none_free) bring texts of their
        # own, in English; the further languages have entries for them, made of the numbers.
        "reason_no_sizes": "There is no size that you may start. Ask an administrator for one.",
        "no_reason": "The usage portal does not say why. Choose another size, or ask an administrator.",
        "reason_unknown_user": "The usage portal does not know you. Ask an administrator to give you limits there.",
        "reason_no_such_size": "There is no size '{slug}' for you. Load the page again and choose one of: {slugs}.",
        "reason_no_size_named": "A size is a name, such as: {slugs}. Choose one of them.",
        "reason_away": (
            "The usage portal does not answer, and what it said last about you is too old to start a server by. "
            "Try again in a minute; tell an administrator if this goes on."
        ),
        "away_refused": "{reason} (The usage portal does not answer; it said so at {time}.)",
        "size": "{display}: {reason}",
        "storage": "The shared storage is not available: {why}. Please tell an administrator.",
        "pod_ended": (
            "The server ended before it ran, on node {node}: {why}. Try again; tell an administrator if this goes on."
        ),
        # JupyterLab cuts what is longer than 140 characters.
        "notice": (
            "Your server{server} will be stopped in {minutes} min ({time}): a budget is used up. "
            "Save your work; an administrator can extend it."
        ),
    },
    TRADITIONAL_CHINESE: {
        "legend": "伺服器規格",
        "gpu": "其他型號的 GPU",
        "available": "現在可以啟動",
        "refused": "現在無法啟動：{reason}",
        "use_cpu_milli": "使用中的 CPU 核心：{used}，上限 {limit}。",
        "use_memory_bytes": "使用中的記憶體：{used} GiB，上限 {limit} GiB。",
        "use_gpu": "使用中的 GPU：{used}，上限 {limit}。",
        "free": "目前可用：{free}。",
        "free_none": "沒有 GPU",
        "free_item": "{gpu_type} {count} 個",
        "as_of": "用量入口網站沒有回應。以下是它在 {time} 的資料。",
        "reason_no_sizes": "沒有您可以啟動的規格。請向管理員申請。",
        "no_reason": "用量入口網站沒有說明原因。請選擇其他規格，或詢問管理員。",
        "reason_unknown_user": "用量入口網站沒有您的資料。請管理員為您設定上限。",
        "reason_no_such_size": "您沒有名為「{slug}」的規格。請重新載入頁面，並選擇其中之一：{slugs}。",
        "reason_no_size_named": "規格是一個名稱，例如：{slugs}。請選擇其中之一。",
        "reason_away": (
            "用量入口網站沒有回應，而它先前關於您的資料已經太舊，無法據以啟動伺服器。"
            "請一分鐘後再試；如果持續發生，請通知管理員。"
        ),
        "away_refused": "{reason}（用量入口網站沒有回應；這是它在 {time} 的資料。）",
        "size": "{display}：{reason}",
        "storage": "無法使用共用儲存空間：{why}。請通知管理員。",
        "pod_ended": "伺服器在節點 {node} 上還沒執行就結束了：{why}。請再試一次；如果持續發生，請通知管理員。",
        "notice": (
            "您的伺服器{server} 將在 {minutes} 分鐘後（{time}）停止：預算已經用完。請儲存您的工作；管理員可以延長預算。"
        ),
        "reason_over_limit": "超過您的上限：{parts}。請選擇較小的規格，或停止您的其他伺服器或作業。",
        "reason_over_limit_beyond": "超過您的上限：{parts}。請選擇較小的規格，或請管理員提高上限。",
        "part_over_limit": "需要 {needed}，您的上限是 {limit}",
        "part_used": "已使用 {used}",
        "part_reserved": "已保留 {reserved}",
        "reason_budget_used": "您的預算已經用完（{parts}）；{again}。管理員可以延長預算。",
        "part_budget": "{window} {amount} {unit}",
        "again_at": "{until} 起又有可用的額度",
        "again_never": "沒有恢復的時間",
        "without_gpus": "不含 GPU 的規格仍然可以啟動。",
        "reason_too_large": "超過您能使用的任何一個節點：{parts}。請選擇較小的規格。",
        "part_too_large": "需要 {needed}，一個節點最多有 {largest}",
        "reason_none_free": "目前沒有足夠的空閒資源：{parts}。請選擇較小的規格或其他型號，或稍後再試。",
        "part_none_free": "需要 {needed}，一個節點最多空閒 {largest_free}",
        "part_free": "全部共空閒 {free}",
        "part_only_free": "需要 {needed}，全部共空閒 {free}",
        "amount_cpu_milli": "{amount} 個 CPU 核心",
        "amount_memory_bytes": "{amount} GiB 記憶體",
        "amount_gpu": "{amount} 個 GPU",
        "and": "、",
        "beside": "，",
        "unit_gpu_hours": "GPU 小時",
        "unit_cpu_hours": "CPU 核心小時",
        "unit_cost": "費用單位",
        "window_day": "每日",
        "window_week": "每週",
        "window_month": "每月",
        "window_days": "最近 {days} 天",
        "display_cpu": "僅 CPU，{cpu}，{memory}",
        "display_gpu": "{gpu}（{gpu_type}），{cpu}，{memory}",
        "display_any": "任何型號",
        "display_rdma": "{display}，RDMA",
    },
    SIMPLIFIED_CHINESE: {
        "legend": "服务器规格",
        "gpu": "其他型号的 GPU",
        "available": "现在可以启动",
        "refused": "现在无法启动：{reason}",
        "use_cpu_milli": "使用中的 CPU 核心：{used}，上限 {limit}。",
        "use_memory_bytes": "使用中的内存：{used} GiB，上限 {limit} GiB。",
        "use_gpu": "使用中的 GPU：{used}，上限 {limit}。",
        "free": "目前可用：{free}。",
        "free_none": "没有 GPU",
        "free_item": "{gpu_type} {count} 个",
        "as_of": "用量门户没有响应。以下是它在 {time} 的数据。",
        "reason_no_sizes": "没有您可以启动的规格。请向管理员申请。",
        "no_reason": "用量门户没有说明原因。请选择其他规格，或询问管理员。",
        "reason_unknown_user": "用量门户没有您的数据。请管理员为您设置上限。",
        "reason_no_such_size": "您没有名为“{slug}”的规格。请重新加载页面，并选择其中之一：{slugs}。",
        "reason_no_size_named": "规格是一个名称，例如：{slugs}。请选择其中之一。",
        "reason_away": (
            "用量门户没有响应，而它先前关于您的数据已经太旧，无法据以启动服务器。"
            "请一分钟后再试；如果持续发生，请通知管理员。"
        ),
        "away_refused": "{reason}（用量门户没有响应；这是它在 {time} 的数据。）",
        "size": "{display}：{reason}",
        "storage": "无法使用共享存储：{why}。请通知管理员。",
        "pod_ended": "服务器在节点 {node} 上还没运行就结束了：{why}。请再试一次；如果持续发生，请通知管理员。",
        "notice": (
            "您的服务器{server} 将在 {minutes} 分钟后（{time}）停止：预算已经用完。请保存您的工作；管理员可以延长预算。"
        ),
        "reason_over_limit": "超过您的上限：{parts}。请选择较小的规格，或停止您的其他服务器或作业。",
        "reason_over_limit_beyond": "超过您的上限：{parts}。请选择较小的规格，或请管理员提高上限。",
        "part_over_limit": "需要 {needed}，您的上限是 {limit}",
        "part_used": "已使用 {used}",
        "part_reserved": "已预留 {reserved}",
        "reason_budget_used": "您的预算已经用完（{parts}）；{again}。管理员可以延长预算。",
        "part_budget": "{window} {amount} {unit}",
        "again_at": "{until} 起又有可用的额度",
        "again_never": "没有恢复的时间",
        "without_gpus": "不含 GPU 的规格仍然可以启动。",
        "reason_too_large": "超过您能使用的任何一个节点：{parts}。请选择较小的规格。",
        "part_too_large": "需要 {needed}，一个节点最多有 {largest}",
        "reason_none_free": "目前没有足够的空闲资源：{parts}。请选择较小的规格或其他型号，或稍后再试。",
        "part_none_free": "需要 {needed}，一个节点最多空闲 {largest_free}",
        "part_free": "全部共空闲 {free}",
        "part_only_free": "需要 {needed}，全部共空闲 {free}",
        "amount_cpu_milli": "{amount} 个 CPU 核心",
        "amount_memory_bytes": "{amount} GiB 内存",
        "amount_gpu": "{amount} 个 GPU",
        "and": "、",
        "beside": "，",
        "unit_gpu_hours": "GPU 小时",
        "unit_cpu_hours": "CPU 核心小时",
        "unit_cost": "费用单位",
        "window_day": "每日",
        "window_week": "每周",
        "window_month": "每月",
        "window_days": "最近 {days} 天",
        "display_cpu": "仅 CPU，{cpu}，{memory}",
        "display_gpu": "{gpu}（{gpu_type}），{cpu}，{memory}",
        "display_any": "任何型号",
        "display_rdma": "{display}，RDMA",
    },
}


def language_of(accepted: str) -> str:
    """Return the language of an Accept-Language header (RFC 9110) that there is, or English."""
    wanted = []
    for position, part in enumerate(accepted.split(",")):
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), position, name.strip().lower()))
        except ValueError:
            continue
    for quality, _, name in sorted(wanted):
        language, *rest = name.split("-")
        if quality < 0 and language == "zh":
            return TRADITIONAL_CHINESE if _TRADITIONAL & set(rest) else SIMPLIFIED_CHINESE
        if quality < 0 and language == "en":
            return ENGLISH
    return ENGLISH


def say(language: str, key: str, /, **values: object) -> str:
    """Return a text in a language; what is not translated is in English. Values are no templates."""
    text = TEXTS.get(language, {}).get(key) or TEXTS[ENGLISH][key]
    return text.format(**values)
