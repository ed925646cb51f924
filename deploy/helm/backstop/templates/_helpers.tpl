{{- define "backstop.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "backstop.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "backstop.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "backstop.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "backstop.selector" -}}
app.kubernetes.io/name: {{ include "backstop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: proxy
{{- end -}}

{{- define "backstop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/name: {{ include "backstop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "backstop.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "backstop.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "backstop.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "backstop.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{ .Values.tls.secretName }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "backstop.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "backstop.hashKeySecret" -}}
{{ .Values.sharedCache.hashKeySecret.name | default (printf "%s-hash-key" (include "backstop.fullname" .)) }}
{{- end -}}

{{/* On the node's own network clients come to port 25 itself; elsewhere a Service maps 25 to a port anyone may bind. */}}
{{- define "backstop.smtpPort" -}}
{{- if eq .Values.clientAddress.mode "hostNetwork" }}{{ .Values.service.port }}{{ else }}2525{{ end -}}
{{- end -}}

{{- define "backstop.smtpsPort" -}}
{{- if eq .Values.clientAddress.mode "hostNetwork" }}{{ .Values.smtps.port }}{{ else }}2465{{ end -}}
{{- end -}}

{{/* One listener of the configuration; takes name, port, tls and the values. */}}
{{- define "backstop.listener" -}}
[[listener]]
name = {{ .name | quote }}
address = ["[::]:{{ .port }}"]
tls = {{ .tls | quote }}
{{- if eq .values.clientAddress.mode "proxy" }}
proxy_protocol = {{ .values.clientAddress.proxyProtocol.header | quote }}
trusted = {{ .values.clientAddress.proxyProtocol.trusted | toJson }}
{{- end }}
{{- end -}}

{{/* What cannot work is said when it is rendered. */}}
{{- define "backstop.check" -}}
{{- if regexMatch "(?m)^\\s*(\\[\\[?(listener|tls|admin)[\\].]|hostname\\s*=)" .Values.config -}}
{{- fail "config: hostname, [[listener]], [tls] and [admin] are written by the chart; use the values hostname, clientAddress, tls, smtps and admin" -}}
{{- end -}}
{{- if not (regexMatch "(?m)^\\s*\\[\\[route\\]\\]" .Values.config) -}}
{{- fail "config: at least one [[route]] is needed" -}}
{{- end -}}
{{- if and (eq .Values.clientAddress.mode "proxy") (not .Values.clientAddress.proxyProtocol.trusted) -}}
{{- fail "clientAddress.proxyProtocol.trusted: name the balancer's networks; without them no PROXY header is believed" -}}
{{- end -}}
{{- if and (or .Values.smtps.enabled .Values.tls.required) (not (include "backstop.tlsSecret" .)) -}}
{{- fail "smtps.enabled and tls.required need a certificate: tls.secretName or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: which issuer?" -}}
{{- end -}}
{{- if and (eq .Values.sharedCache.mode "external") (not .Values.sharedCache.url) (not .Values.sharedCache.urlSecret.name) -}}
{{- fail "sharedCache: external needs url or urlSecret.name" -}}
{{- end -}}
{{- if and (eq .Values.clientAddress.mode "hostNetwork") (not .Values.admin.tokenSecret.name) -}}
{{- fail "admin.tokenSecret.name: with hostNetwork every process of the node is on loopback and could read and change what is remembered; name a Secret with a token" -}}
{{- end -}}
{{- if and (eq .Values.clientAddress.mode "hostNetwork") .Values.autoscaling.enabled -}}
{{- fail "autoscaling: with hostNetwork there is one pod on each node; choose nodes with nodeSelector instead" -}}
{{- end -}}
{{- if and (eq .Values.clientAddress.mode "hostNetwork") (eq .Values.sharedCache.mode "bundled") -}}
{{- fail "sharedCache.mode: bundled lets in the pods of Backstop alone, and with hostNetwork they come under the addresses of nodes; use external, with a Redis that has a password" -}}
{{- end -}}
{{- if and (eq .Values.clientAddress.mode "hostNetwork") .Values.networkPolicy.enabled -}}
{{- fail "networkPolicy.enabled: with hostNetwork a NetworkPolicy holds for no pod of Backstop; close admin.port to strangers in the firewall of the nodes, or choose admin.bind: hostIP" -}}
{{- end -}}
{{- if and (ne .Values.clientAddress.mode "hostNetwork") (eq .Values.admin.bind "hostIP") -}}
{{- fail "admin.bind: hostIP is an address of the node, which a pod has with clientAddress.mode hostNetwork alone" -}}
{{- end -}}
{{- end -}}
