// Says in JupyterLab when this server will be stopped, in the hub's words: GET <hub>/api/gpuhub/notices.
//
// By hand what a bundler makes of an extension: JupyterLab loads this file and asks the container for its module. It
// needs nothing that would have to be bundled.
(function () {
  'use strict';

  const NAME = 'gpuhub-notices';
  const SECONDS = 60;

  async function ask(page) {
    const answer = await fetch(`${page.hubHost || ''}${page.hubPrefix}api/gpuhub/notices`, {
      // The page's token may see this server and nothing else; the hub's cookies stay out of it.
      headers: {Authorization: `token ${page.token}`},
      credentials: 'omit',
      cache: 'no-store',
    });
    if (!answer.ok) {
      throw new Error(`the hub answers ${answer.status}`);
    }
    const {notices} = await answer.json();
    return notices.find(notice => notice.servername === (page.hubServerName || ''));
  }

  // Shows what is new: another end than the one that is shown, or none any more.
  function teller(commands) {
    let shown = null;
    return async notice => {
      const endsAt = notice ? notice.ends_at : null;
      if (endsAt === (shown && shown.endsAt)) {
        return;
      }
      if (shown) {
        await commands.execute('apputils:dismiss-notification', {id: shown.id});
        shown = null;
      }
      if (notice) {
        const options = {autoClose: false};
        const id = await commands.execute('apputils:notify', {message: notice.text, type: 'warning', options});
        shown = {id, endsAt};
      }
    };
  }

  function activate(app) {
    const element = document.getElementById('jupyter-config-data');
    const page = element ? JSON.parse(element.textContent) : {};
    if (!page.hubPrefix || !page.token) {
      return; // Not started by a hub.
    }
    const tell = teller(app.commands);
    const look = async () => {
      try {
        await tell(await ask(page));
      } catch (error) {
        console.warn(`${NAME}: ${error}`);
      }
      setTimeout(look, SECONDS * 1000);
    };
    app.restored.then(look);
  }

  const extension = {
    __esModule: true,
    default: {id: `${NAME}:plugin`, description: 'Says when the server will be stopped', autoStart: true, activate},
  };
  const containers = (window._JUPYTERLAB = window._JUPYTERLAB || {});
  containers[NAME] = {init: () => undefined, get: async () => () => extension};
})();
