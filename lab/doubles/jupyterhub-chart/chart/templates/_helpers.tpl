{{/* Called with a list: the root context and a component. Labels that select pods. */}}
{{- define "double.selector" -}}
component: {{ index . 1 }}
app: jupyterhub
release: {{ (index . 0).Release.Name }}
{{- end }}

{{/* Labels of pods: those that select, and their modern names. */}}
{{- define "double.podLabels" -}}
{{ include "double.selector" . }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/name: jupyterhub
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "double.labels" -}}
{{- $root := index . 0 }}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- include "double.podLabels" . }}
chart: {{ $chart }}
helm.sh/chart: {{ $chart }}
heritage: {{ $root.Release.Service }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{/* Where hub and proxy run. Called with the values of one of them. */}}
{{- define "double.placement" -}}
nodeSelector: {{ .nodeSelector | toJson }}
tolerations:
{{- range list "hub.jupyter.org/dedicated" "hub.jupyter.org_dedicated" }}
  - {key: {{ . }}, operator: Equal, value: core, effect: NoSchedule}
{{- end }}
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        preference:
          matchExpressions:
            - {key: hub.jupyter.org/node-purpose, operator: In, values: [core]}
{{- end }}

{{/* Called with path, scheme ("" for none) and the seconds before the first check of liveness. */}}
{{- define "double.probes" -}}
{{- $request := dict "path" .path "port" "http" }}
{{- if .scheme }}{{ $_ := set $request "scheme" .scheme }}{{ end -}}
livenessProbe:
  httpGet: {{ $request | toJson }}
  initialDelaySeconds: {{ .delay }}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 30
readinessProbe:
  httpGet: {{ $request | toJson }}
  initialDelaySeconds: 0
  periodSeconds: 2
  timeoutSeconds: 1
  failureThreshold: 1000
{{- end }}

{{/* The environment variable by which hub and proxy know each other. */}}
{{- define "double.proxyToken" -}}
- name: CONFIGPROXY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: hub, key: hub.config.ConfigurableHTTPProxy.auth_token}
{{- end }}

{{/* A rule that lets traffic out to pods of a component; called with root, component and ports. */}}
{{- define "double.egressTo" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "double.selector" . | nindent 10 }}
  ports:
    {{- range index . 2 }}
    - port: {{ . }}
    {{- end }}
{{- end }}

{{/* A rule that lets pods in that carry a label; called with the label's last part and a port's name. */}}
{{- define "double.ingressFrom" -}}
- from:
    - podSelector:
        matchLabels:
          hub.jupyter.org/network-access-{{ index . 0 }}: "true"
  ports:
    - port: {{ index . 1 }}
{{- end }}

{{/* Rules towards name servers and the outside. With "private" also to private networks and the metadata server. */}}
{{- define "double.egressOutside" -}}
{{- $private := list "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" }}
{{- $metadata := "169.254.169.254/32" }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  to:
    - ipBlock: {cidr: {{ $metadata }}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
    {{- range $private }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: {{ append $private $metadata | toJson }}
{{- if . }}
- to:
    {{- range $private }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
- to:
    - ipBlock: {cidr: {{ $metadata }}}
{{- end }}
{{- end }}
